#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <regex>
#include <set>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"
#include "checkpoint/run_layout.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "families/adapter/adapter.h"
#include "families/names/name_table.h"
#include "quant/codec.h"

// The files of the peft library (0.21). A linear's A is [r, inputs] and B [outputs, r]; of a stack of experts the rows
// of A are expert by expert, [E · r, inputs], and the columns of B rank by rank, [outputs, r · E]. Two parameters of
// one module (gate_up_proj and down_proj) are wrapped one around the other: the one that comes first in the module is
// the inner one, whose keys say base_layer.
namespace coterie::families {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;
using checkpoint::TensorInfo;

namespace {

constexpr const char *kConfig = "adapter_config.json", *kTensors = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.", kBase = ".base_layer";
constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight", kMagnitude = ".lora_magnitude_vector";

std::string replaced(std::string text, std::string_view what, const std::string& by) {
  const size_t at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), by);
}

/// What the file holds of one wrapped module.
struct Found {
  const TensorInfo *a = nullptr, *b = nullptr, *magnitude = nullptr;
};

std::vector<float> values_of(const TensorInfo& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor::element_count(tensor.shape)));
  const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back(),
                rows = std::ssize(values) / std::max<int64_t>(cols, 1);
  const auto stride = static_cast<size_t>(tensor::row_bytes(tensor.dtype, cols));
  for (int64_t r = 0; r < rows; ++r)
    quant::decode(tensor.dtype, tensor.bytes.data() + static_cast<size_t>(r) * stride, values.data() + r * cols, cols);
  return values;
}

}  // namespace

/// Reads an adapter's folder for a model.
class AdapterReader {
 public:
  AdapterReader(const models::Decoder& decoder, const fs::path& folder) : decoder_(decoder), folder_(folder) {
    read_config();
    if (!fs::exists(folder / kTensors))
      throw base::Error(ErrorKind::not_found, (folder / kTensors).string(), "there is no such file",
                        fs::exists(folder / "adapter_model.bin") ? "adapter_model.bin is a pickle, which is not read; "
                                                                   "save it with safe_serialization=True"
                                                                 : "");
    source_ = checkpoint::open_safetensors(folder / kTensors);
    sort_keys();
  }

  Adapter read() {
    for (const bool per_expert : {false, true})
      for (const AdapterModule& module : adapter_modules(decoder_, per_expert)) take(module, per_expert);
    for (const auto& [name, found] : found_)
      base::fail(ErrorKind::bad_input, source_->where(),
                 "{} belongs to \"{}\", to which no adapter can be attached in a {} model here",
                 (found.a   ? found.a
                  : found.b ? found.b
                            : found.magnitude)
                     ->name,
                 name, decoder_.spec().family.shown());
    if (adapter_.modules_.empty()) base::fail(ErrorKind::bad_input, source_->where(), "holds no adapter");
    return std::move(adapter_);
  }

 private:
  void read_config() {
    const fs::path path = folder_ / kConfig;
    if (!fs::exists(path)) {
      const std::string run = checkpoint::run_hint(folder_);
      throw base::Error(ErrorKind::not_found, folder_.string(), "has no adapter_config.json",
                        !run.empty() ? run : "an adapter is a folder as the peft library or coterie tune write it");
    }
    config_ = base::read_json(path);
    base::JsonReader config(config_, path.string());
    const std::string type = config.string("peft_type");
    if (type != "LORA")
      base::fail(ErrorKind::unsupported, path.string(), "peft_type is {}, only LORA is supported", type);
    LoraSpec& spec = adapter_.spec_;
    spec.rank = config.integer("r");
    spec.alpha = config.number("lora_alpha");
    spec.rslora = config.boolean("use_rslora", false);
    spec.dora = config.boolean("use_dora", false);
    spec.dropout = config.number("lora_dropout", 0.0);
    if (const std::string bias = config.string("bias", "none"); bias != "none")
      base::fail(ErrorKind::unsupported, path.string(), "bias is \"{}\": biases of adapters are not supported", bias);
    if (const Json* init = config.value("init_lora_weights"); init && init->is_string()) {
      // These split the base weights: the adapter is one to other weights than the model's.
      for (const char* kind : {"pissa", "olora", "loftq", "corda", "lora_ga"})
        if (init->get<std::string>().starts_with(kind))
          base::fail(ErrorKind::unsupported, path.string(), "init_lora_weights is \"{}\", which changes the base model",
                     init->get<std::string>());
    }
    config.inert({"auto_mapping",
                  "base_model_name_or_path",
                  "revision",
                  "task_type",
                  "inference_mode",
                  "peft_version",
                  "target_modules",
                  "target_parameters",
                  "layers_to_transform",
                  "layers_pattern",
                  "exclude_modules",
                  "rank_pattern",
                  "alpha_pattern",
                  "megatron_core",
                  "megatron_config",
                  "runtime_config",
                  "eva_config",
                  "loftq_config",
                  "corda_config",
                  "lora_ga_config",
                  "use_qalora",
                  "qalora_group_size",
                  "ensure_weight_tying"});
    for (const std::string& key : config.unread()) {
      const Json& value = config_[key];
      const bool nothing = value.is_null() || value == false || (value.is_structured() && value.empty());
      if (!nothing)
        base::fail(ErrorKind::unsupported, path.string(), "{} is {}, which is not honoured here", key, value.dump());
    }
    check_pattern("rank_pattern", path);
    check_pattern("alpha_pattern", path);
    if (const Json qalora = config_.value("use_qalora", Json(false)); !qalora.is_null() && qalora != false)
      base::fail(ErrorKind::unsupported, path.string(), "use_qalora is {}, which is not honoured here",
                 config_.value("use_qalora", Json()).dump());
  }

  // Numbers by name: whole ones above zero for ranks.
  void check_pattern(const std::string& key, const fs::path& path) const {
    const Json pattern = config_.value(key, Json());
    if (pattern.is_null()) return;
    if (!pattern.is_object())
      base::fail(ErrorKind::bad_input, path.string(), "{} is {}, expected an object of names and numbers", key,
                 pattern.dump());
    for (const auto& [name, value] : pattern.items()) {
      const bool rank = key == "rank_pattern";
      const bool good = rank ? value.is_number_integer() && value.get<int64_t>() >= 1
                             : value.is_number() && std::isfinite(value.get<double>());
      if (!good)
        base::fail(ErrorKind::bad_input, path.string(), "{}: \"{}\" is {}, expected a {}", key, name, value.dump(),
                   rank ? "whole number of 1 or more" : "number");
    }
  }

  void sort_keys() {
    for (const TensorInfo& tensor : source_->tensors()) {
      if (!tensor::info(tensor.dtype).weight)
        base::fail(ErrorKind::bad_input, source_->where(), "{} is of {}, expected numbers that weigh (f32, bf16, …)",
                   tensor.name, tensor::name(tensor.dtype));
      std::string_view name = tensor.name;
      if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
      const auto put = [&](std::string_view ending, const TensorInfo* Found::*member) {
        if (!name.ends_with(ending)) return false;
        found_[std::string(name.substr(0, name.size() - ending.size()))].*member = &tensor;
        return true;
      };
      if (put(kA, &Found::a) || put(kB, &Found::b) || put(kMagnitude, &Found::magnitude) ||
          put(std::string(kMagnitude) + ".weight", &Found::magnitude))
        continue;
      base::fail(ErrorKind::unsupported, source_->where(), "{} is not a matrix of LoRA and is not supported here",
                 tensor.name);
    }
  }

  // The key of a parameter whose module has two that are adapted: the inner one says base_layer.
  std::string key_of(const AdapterModule& module) const {
    if (module.kind != AdapterModule::Kind::parameter || module.stack == 0) return module.name;
    const std::string inner = module.name + std::string(kBase);
    return module.parameter != "down_proj" && module.parameter != "down" && found_.contains(inner) ? inner
                                                                                                   : module.name;
  }

  void take(const AdapterModule& module, bool per_expert) {
    if (module.kind == AdapterModule::Kind::per_expert) return take_experts(module);
    if (per_expert) return;
    const auto found = found_.find(key_of(module));
    if (found == found_.end()) return;
    // Alone under the module's name, it is whichever parameter the config says.
    if (module.stack > 0 && !is_target(module)) return;
    const Found tensors = found->second;
    if (tensors.magnitude && module.stack > 0)
      base::fail(ErrorKind::unsupported, source_->where(), "{}: magnitudes of stacked experts are not honoured here",
                 tensors.magnitude->name);
    found_.erase(found);
    Adapter::Module& into = make(module, tensors);
    fill(into, tensors, 0, module.stack > 0);
    if (!tensors.magnitude) return;
    into.magnitude = tensor::Buffer<float>(module.outputs), into.norm = tensor::Buffer<float>(module.outputs);
    expect_shape(*tensors.magnitude, {module.outputs});
    const std::vector<float> values = values_of(*tensors.magnitude);
    for (int64_t r = 0; r < module.outputs; ++r) into.magnitude[module.row(r)] = values[static_cast<size_t>(r)];
  }

  bool is_target(const AdapterModule& module) const {
    const Json targets = config_.value("target_parameters", Json());
    if (!targets.is_array()) return false;
    return std::any_of(targets.begin(), targets.end(), [&](const Json& target) {
      if (!target.is_string()) return false;
      const std::string word = target, whole = module.name + "." + module.parameter;
      return whole == word || whole.ends_with("." + word);
    });
  }

  void take_experts(const AdapterModule& module) {
    std::vector<Found> all;
    for (int64_t e = 0; e < module.stack; ++e) {
      const auto found = found_.find(replaced(module.name, "{expert}", std::to_string(e)));
      if (found == found_.end()) break;
      all.push_back(found->second);
      found_.erase(found);
    }
    if (all.empty()) return;
    if (std::ssize(all) != module.stack)
      base::fail(ErrorKind::not_found, source_->where(), "{}: {} of {} experts have an adapter", module.path,
                 all.size(), module.stack);
    Adapter::Module& into = make(module, all.front());
    for (int64_t e = 0; e < module.stack; ++e) fill(into, all[static_cast<size_t>(e)], e, false);
  }

  Adapter::Module& make(const AdapterModule& module, const Found& found) {
    const TensorInfo* const whole = found.a && found.b ? found.a : nullptr;
    if (!whole)
      base::fail(ErrorKind::not_found, source_->where(), "{} has no {}", module.name, (found.a ? kB : kA).substr(1));
    if (spec().dora && !found.magnitude && module.stack == 0)
      base::fail(ErrorKind::not_found, source_->where(), "{} has no {}", module.name, kMagnitude.substr(1));
    if (found.magnitude && !spec().dora)
      base::fail(ErrorKind::bad_input, source_->where(), "{}: there are magnitudes, but use_dora is false",
                 module.name);
    const bool stacked = module.kind == AdapterModule::Kind::parameter && module.stack > 0;
    const int64_t matrices = stacked ? module.stack : 1;
    if (whole->shape.size() != 2 || whole->shape[0] % matrices != 0 || whole->shape[0] == 0)
      base::fail(ErrorKind::bad_input, source_->where(), "{} is {}, expected [{}r, {}]", whole->name,
                 tensor::to_string(whole->shape), stacked ? fmt::format("{} · ", matrices) : "", module.inputs);
    const int64_t rank = whole->shape[0] / matrices;
    const std::string by_rank = "rank_pattern", by_alpha = "alpha_pattern";
    const Json said = of_pattern(by_rank, module, spec().rank), alpha = of_pattern(by_alpha, module, spec().alpha);
    if (rank != said)
      base::fail(ErrorKind::bad_input, source_->where(), "{} has rank {}, r and rank_pattern of the config say {}",
                 whole->name, rank, said.dump());
    adapter_.make(module, rank, alpha.get<double>());
    return adapter_.modules_.back();
  }

  // What a pattern says of a module; of experts that are projections of their own, what it says of all.
  Json of_pattern(const std::string& key, const AdapterModule& module, const Json& otherwise) const {
    const std::string name = module.name + (module.parameter.empty() ? "" : "." + module.parameter);
    if (module.kind != AdapterModule::Kind::per_expert) return matching(key, name, otherwise);
    const Json first = matching(key, replaced(name, "{expert}", "0"), otherwise);
    for (int64_t e = 1; e < module.stack; ++e)
      if (matching(key, replaced(name, "{expert}", std::to_string(e)), otherwise) != first)
        base::fail(ErrorKind::unsupported, (folder_ / kConfig).string(),
                   "{}: other numbers for expert {} than for expert 0 of {}: the experts of a layer have one here", key,
                   e, module.path);
    return first;
  }

  // peft: the first key that, as a regular expression, is the whole name or what follows one of its dots.
  Json matching(const std::string& pattern, const std::string& name, const Json& otherwise) const {
    const Json patterns = config_.value(pattern, Json());
    std::optional<Json> found;
    for (const auto& [key, value] : patterns.items()) {
      // std::regex recurses by the length of what it reads, and takes for ever over repeated groups.
      const bool plain =
          key.size() <= 200 && key.find(")*") == key.npos && key.find(")+") == key.npos && key.find("){") == key.npos;
      try {
        if (!plain) throw std::regex_error(std::regex_constants::error_complexity);
        if (std::regex_match(name, std::regex("(.*\\.)?(" + key + ")"))) {
          // Which comes first is not known any more: JSON's objects have no order.
          if (found && *found != value)
            base::fail(ErrorKind::unsupported, (folder_ / kConfig).string(),
                       "{}: two of its keys are for {}, {} and {}", pattern, name, found->dump(), value.dump());
          found = value;
        }
      } catch (const std::regex_error&) {
        base::fail(ErrorKind::unsupported, (folder_ / kConfig).string(), "{}: \"{}\" is not understood", pattern,
                   key.substr(0, 60));
      }
    }
    return found.value_or(otherwise);
  }

  void expect_shape(const TensorInfo& tensor, const tensor::Shape& shape) const {
    if (tensor.shape != shape)
      base::fail(ErrorKind::bad_input, source_->where(), "{} is {}, expected {}", tensor.name,
                 tensor::to_string(tensor.shape), tensor::to_string(shape));
  }

  // `stacked`: all experts; else expert `e` of the module's.
  void fill(Adapter::Module& into, const Found& found, int64_t e, bool stacked) {
    const AdapterModule& m = into.module;
    const int64_t experts = stacked ? m.stack : 1, r = into.rank;
    if (!found.a || !found.b) base::fail(ErrorKind::not_found, source_->where(), "{} lacks A or B", m.name);
    expect_shape(*found.a, {experts * r, m.inputs}), expect_shape(*found.b, {m.outputs, r * experts});
    const std::vector<float> a = values_of(*found.a), b = values_of(*found.b);
    const auto finite = [](const std::vector<float>& v) {
      return std::all_of(v.begin(), v.end(), [](float x) { return std::isfinite(x); });
    };
    for (const auto& [values, tensor] : {std::pair(&a, found.a), std::pair(&b, found.b)})
      if (!finite(*values))
        base::fail(ErrorKind::bad_input, source_->where(), "{} holds a NaN or an infinity", tensor->name);
    for (int64_t i = 0; i < experts * r; ++i)
      for (int64_t c = 0; c < m.inputs; ++c)
        into.a[(e * r + i) * m.inputs + m.column(c)] = a[static_cast<size_t>(i * m.inputs + c)];
    for (int64_t o = 0; o < m.outputs; ++o)
      for (int64_t i = 0; i < r; ++i)
        for (int64_t x = 0; x < experts; ++x)
          into.b[((e + x) * m.outputs + m.row(o)) * r + i] = b[static_cast<size_t>((o * r + i) * experts + x)];
  }

  const LoraSpec& spec() const { return adapter_.spec_; }

  const models::Decoder& decoder_;
  fs::path folder_;
  Json config_;
  std::unique_ptr<checkpoint::TensorSource> source_;
  std::map<std::string, Found> found_;
  Adapter adapter_;
};

Adapter Adapter::load(const models::Decoder& decoder, const fs::path& folder) {
  return AdapterReader(decoder, folder).read();
}

namespace {

/// "model.layers.3.self_attn.q_proj" → "self_attn.q_proj", which peft matches as an ending.
std::string ending(const std::string& name) {
  const PathPattern pattern = path_pattern(name);
  const size_t at = pattern.pattern.find("{layer}.");
  return at == std::string::npos ? name : pattern.pattern.substr(at + std::string_view("{layer}.").size());
}

/// For a regular expression.
std::string escaped(const std::string& name) {
  std::string result;
  for (const char c : name) {
    if (c == '.') result += '\\';
    result += c;
  }
  return result;
}

}  // namespace

void Adapter::save(const fs::path& folder, const std::string& base) const {
  std::set<std::string> target_modules, target_parameters;
  std::vector<checkpoint::TensorToWrite> tensors;
  const auto add = [&](const std::string& name, tensor::Shape shape, std::vector<float> values) {
    tensors.push_back({std::string(kPrefix) + name, tensor::DType::f32, std::move(shape),
                       [values = std::move(values)](const auto& write) { write(std::as_bytes(std::span(values))); }});
  };
  std::set<std::string> two;  // modules with two parameters
  std::map<std::string, int> parameters;
  for (const Module& m : modules_)
    if (m.module.kind == AdapterModule::Kind::parameter && m.module.stack > 0 && ++parameters[m.module.name] == 2)
      two.insert(m.module.name);
  Json ranks = Json::object(), alphas = Json::object();
  for (const Module& m : modules_) {
    const AdapterModule& module = m.module;
    const std::string full = module.name + (module.parameter.empty() ? "" : "." + module.parameter);
    if (m.rank != spec_.rank) ranks[escaped(full)] = m.rank;
    if (m.alpha != spec_.alpha) alphas[escaped(full)] = m.alpha;
    const bool each = module.kind == AdapterModule::Kind::per_expert;
    if (module.kind == AdapterModule::Kind::parameter)
      target_parameters.insert(ending(module.name + "." + module.parameter));
    else
      target_modules.insert(each ? module.name.substr(module.name.rfind('.') + 1) : ending(module.name));
    const bool inner = two.contains(module.name) && module.parameter != "down_proj" && module.parameter != "down";
    const int64_t experts = each ? 1 : module.matrices();
    for (int64_t e = 0; e < (each ? module.stack : 1); ++e) {
      const std::string name = replaced(module.name, "{expert}", std::to_string(e)) + (inner ? std::string(kBase) : "");
      std::vector<float> a(static_cast<size_t>(experts * m.rank * module.inputs));
      for (int64_t i = 0; i < experts * m.rank; ++i)
        for (int64_t c = 0; c < module.inputs; ++c)
          a[static_cast<size_t>(i * module.inputs + c)] = m.a[(e * m.rank + i) * module.inputs + module.column(c)];
      std::vector<float> b(static_cast<size_t>(experts * module.outputs * m.rank));
      for (int64_t o = 0; o < module.outputs; ++o)
        for (int64_t i = 0; i < m.rank; ++i)
          for (int64_t x = 0; x < experts; ++x)
            b[static_cast<size_t>((o * m.rank + i) * experts + x)] =
                m.b[((e + x) * module.outputs + module.row(o)) * m.rank + i];
      add(name + std::string(kA), {experts * m.rank, module.inputs}, std::move(a));
      add(name + std::string(kB), {module.outputs, m.rank * experts}, std::move(b));
    }
    if (m.magnitude.size() == 0) continue;
    std::vector<float> magnitude(static_cast<size_t>(module.outputs));
    for (int64_t o = 0; o < module.outputs; ++o) magnitude[static_cast<size_t>(o)] = m.magnitude[module.row(o)];
    add(module.name + std::string(kMagnitude), {module.outputs}, std::move(magnitude));
  }
  const Json config = {{"peft_type", "LORA"},
                       {"task_type", "CAUSAL_LM"},
                       {"base_model_name_or_path", base},
                       {"inference_mode", true},
                       {"r", spec_.rank},
                       {"lora_alpha", spec_.alpha},
                       {"lora_dropout", spec_.dropout},
                       {"use_rslora", spec_.rslora},
                       {"use_dora", spec_.dora},
                       {"bias", "none"},
                       {"fan_in_fan_out", false},
                       {"rank_pattern", ranks},
                       {"alpha_pattern", alphas},
                       {"target_modules", target_modules},
                       {"target_parameters", target_parameters.empty() ? Json() : Json(target_parameters)}};
  base::AtomicFile file(folder / kConfig);
  file.write(config.dump(2) + "\n");
  checkpoint::write_safetensors(folder / kTensors, tensors, {{"format", "pt"}});
  file.commit();
}

}  // namespace coterie::families
