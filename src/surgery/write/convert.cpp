#include "surgery/write/convert.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "base/atomic_file.h"
#include "base/error.h"
#include "families/gguf/gguf_metadata.h"
#include "families/weights/export.h"
#include "quant/codec.h"
#include "surgery/write/file_plan.h"
#include "surgery/write/folder.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using checkpoint::TensorToWrite;
using layers::Place;
using tensor::DType;

void refuse_coarse_router(DType dtype) {
  if (families::too_coarse_for_a_router(dtype))
    throw base::Error(
        ErrorKind::unsupported, "convert.places: router",
        fmt::format("a router is not written in {}: below 8 bits it chooses other experts", tensor::name(dtype)),
        "keep it in f32, which is a thousandth of the model");
}

class Writer {
 public:
  Writer(const families::Model& model, FilePlan plan, const ConvertOptions& options)
      : options_(options),
        facts_(model.decoder->spec(), options.importance != nullptr),
        plan_(std::move(plan)),
        pool_(options.threads) {
    from_gguf_ = model.source->format() == checkpoint::Format::gguf;
    as_it_is_ = !options.to && !options.preset && options.places.empty();
  }

  Converted write_gguf(const std::filesystem::path& out) {
    for (TensorToWrite& tensor : plan_.tensors) {
      const auto role = plan_.roles.find(tensor.name);
      if (role == plan_.roles.end() || (from_gguf_ && as_it_is_)) continue;
      const DType to = format_of(role->second, tensor);
      recode(tensor, role->second, to);
    }
    if (!as_it_is_) plan_.metadata.erase("general.file_type");
    if (options_.preset) plan_.metadata["general.file_type"] = static_cast<uint64_t>(options_.preset->file_type);
    if (options_.importance) describe_importance();
    watch();
    checkpoint::write_gguf(out, plan_.tensors, plan_.metadata);
    return finish(out);
  }

  Converted write_folder(const std::filesystem::path& out) {
    const DType most = options_.to ? *options_.to : most_common();
    for (TensorToWrite& tensor : plan_.tensors) {
      const Role& role = plan_.roles.at(tensor.name);
      recode(tensor, role, options_.to ? most : folder_format(tensor, role, most));
    }
    plan_.config["dtype"] = plan_.config["torch_dtype"] = most == DType::f32   ? "float32"
                                                          : most == DType::f16 ? "float16"
                                                                               : "bfloat16";
    watch();
    NewFolder folder(out);
    folder.write("config.json", plan_.config.dump(2) + "\n");
    for (const auto& [name, text] : plan_.files) folder.write(name, text);
    folder.fill([&](const auto& now) {
      checkpoint::write_safetensors(now / "model.safetensors", plan_.tensors, {{"format", "pt"}});
    });
    folder.commit();
    return finish(out / "model.safetensors");
  }

 private:
  DType format_of(const Role& role, const TensorToWrite& tensor) const {
    const int64_t cols = tensor.shape.back();
    const auto placed = options_.places.find(role.place);
    const bool asked = placed != options_.places.end();
    if (role.place == Place::router && asked && !role.vector) {
      refuse_coarse_router(placed->second);
      return families::fitting_format(placed->second, cols);
    }
    if (role.vector || role.one_row || role.place == Place::router) return DType::f32;
    if (asked) return families::fitting_format(placed->second, cols);
    if (options_.preset) return families::fitting_format(options_.preset->format(role, facts_), cols);
    if (!options_.to) return tensor.dtype;
    const bool head = role.place == Place::output_embeddings || (role.path == "embedding" && facts_.tied);
    const bool coarse = tensor::is_block(*options_.to) && tensor::bits_per_value(*options_.to) < 8;
    return families::fitting_format(head && coarse ? DType::q6_k : *options_.to, cols);
  }

  void recode(TensorToWrite& tensor, const Role& role, DType to) {
    const auto found = plan_.changes.find(tensor.name);
    const Change change = found == plan_.changes.end() ? Change() : found->second;
    if (tensor.dtype == to && change.none()) return;
    if (tensor::is_block(tensor.dtype) && tensor::is_block(to)) {
      if (!options_.requantise)
        throw base::Error(ErrorKind::unsupported, tensor.name,
                          fmt::format("is {} already: rounding it again to {} adds to its error",
                                      tensor::name(tensor.dtype), tensor::name(to)),
                          "start from the unquantised model, or set `convert.requantize`");
      ++requantised_;
    }
    ColumnWeights weights;
    if (options_.importance && tensor::is_block(to)) weights = weights_of(tensor, role);
    const bool rounds = to != DType::f32;
    Loss* loss = rounds ? losses_.emplace_back(to, std::make_unique<Loss>()).second.get() : nullptr;
    tensor = recoded(std::move(tensor), to, change, pool_, weights, loss);
  }

  ColumnWeights weights_of(const TensorToWrite& tensor, const Role& role) {
    const auto other = plan_.importance_names.find(tensor.name);
    const std::string& name = other == plan_.importance_names.end() ? tensor.name : other->second;
    const int64_t cols = tensor.shape.back(), items = role.expert < 0 ? role.items : -1;
    const std::vector<float>& all = weights_[tensor.name] = options_.importance->weights(name, items, cols);
    if (all.empty()) {
      // Calibration does not run the head.
      if (role.place != Place::output_embeddings && role.path != "embedding") ++unweighted_;
      return {};
    }
    std::span<const float> mine(all);
    if (role.expert >= 0) mine = mine.subspan(static_cast<size_t>(role.expert * cols), static_cast<size_t>(cols));
    const int64_t count = std::ssize(mine) / cols;
    for (int64_t i = 0; i < count; ++i) {
      const auto item = mine.subspan(static_cast<size_t>(i * cols), static_cast<size_t>(cols));
      if (std::none_of(item.begin(), item.end(), [](float w) { return w > 0; })) {
        ++unseen_;
        if (unseen_names_.size() < 4)
          unseen_names_.push_back(fmt::format("expert {} of {}", role.expert >= 0 ? role.expert : i, tensor.name));
      }
    }
    return {mine, count};
  }

  void describe_importance() {
    const Importance& importance = *options_.importance;
    plan_.metadata["quantize.imatrix.entries_count"] = static_cast<int64_t>(importance.entries.size());
    plan_.metadata["quantize.imatrix.chunks_count"] = importance.chunks;
    if (!importance.texts.empty()) plan_.metadata["quantize.imatrix.dataset"] = importance.texts.front();
    plan_.metadata["coterie.imatrix.unseen"] = static_cast<uint64_t>(unseen_);
    if (unseen_ > 0) {
      std::string names;
      for (const std::string& name : unseen_names_) names += (names.empty() ? "" : ", ") + name;
      plan_.notes.push_back(fmt::format(
          "{} matrices of experts were never seen in the calibration and are rounded as without importance: {}{}",
          unseen_, names, unseen_ > std::ssize(unseen_names_) ? ", …" : ""));
    }
    if (unweighted_ > 0)
      plan_.notes.push_back(fmt::format(
          "{} tensors are not in the importance matrix and are rounded as without importance", unweighted_));
  }

  /// The dtype of most values.
  DType most_common() const {
    std::map<DType, int64_t> values;
    for (const TensorToWrite& tensor : plan_.tensors)
      if (!plan_.roles.at(tensor.name).vector) values[tensor.dtype] += tensor::element_count(tensor.shape);
    const auto most = std::max_element(values.begin(), values.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    for (const auto& [dtype, count] : values)
      if (tensor::is_block(dtype))
        throw base::Error(ErrorKind::unsupported, "convert",
                          fmt::format("matrices are in {}, which safetensors files cannot hold", tensor::name(dtype)),
                          "`convert.to` bf16, f16 or f32 writes their values");
    return most == values.end() ? DType::f32 : most->first;
  }

  /// Vectors and routers come as f32 from a GGUF: as the matrices are, where that loses nothing.
  DType folder_format(const TensorToWrite& tensor, const Role& role, DType most) {
    if (tensor.dtype != DType::f32 || most == DType::f32) return tensor.dtype;
    if (!role.vector && !role.one_row && role.place != Place::router) return tensor.dtype;
    const auto found = plan_.changes.find(tensor.name);
    std::vector<std::byte> bytes;
    const auto collect = [&](std::span<const std::byte> piece) {
      bytes.insert(bytes.end(), piece.begin(), piece.end());
    };
    recoded(tensor, DType::f32, found == plan_.changes.end() ? Change() : found->second, pool_).produce(collect);
    const auto count = static_cast<int64_t>(bytes.size() / sizeof(float));
    const auto* values = reinterpret_cast<const float*>(bytes.data());
    std::vector<std::byte> narrow(static_cast<size_t>(tensor::row_bytes(most, count)));
    std::vector<float> back(static_cast<size_t>(count));
    quant::encode(most, values, narrow.data(), count);
    quant::decode(most, narrow.data(), back.data(), count);
    return std::equal(back.begin(), back.end(), values) ? most : DType::f32;
  }

  void watch() {
    for (const TensorToWrite& tensor : plan_.tensors) all_ += tensor::element_count(tensor.shape);
    for (TensorToWrite& tensor : plan_.tensors) {
      const int64_t values = tensor::element_count(tensor.shape);
      result_.values[tensor.dtype] += values;
      const double each = static_cast<double>(tensor::row_bytes(tensor.dtype, tensor.shape.empty() ? 1 : values)) /
                          static_cast<double>(std::max<int64_t>(values, 1));
      tensor.produce = [this, values, each, name = tensor.name, produce = std::move(tensor.produce)](
                           const std::function<void(std::span<const std::byte>)>& write) {
        int64_t written = 0;
        produce([&](std::span<const std::byte> piece) {
          const auto made = static_cast<int64_t>(static_cast<double>(written) / each);
          if (options_.on_progress) options_.on_progress(name, done_ + std::min(made, values), all_);
          write(piece);
          written += static_cast<int64_t>(piece.size());
        });
        done_ += values;
      };
    }
  }

  Converted finish(const std::filesystem::path& file) {
    result_.tensors = std::ssize(plan_.tensors);
    std::error_code ignored;
    result_.file_bytes = static_cast<int64_t>(std::filesystem::file_size(file, ignored));
    if (ignored) result_.file_bytes = 0;  // a pipe
    for (const auto& [dtype, loss] : losses_) result_.losses[dtype].add(*loss);
    result_.notes = std::move(plan_.notes);
    if (requantised_ > 0)
      result_.notes.push_back(
          fmt::format("{} tensors were rounded before: the errors of both roundings stay", requantised_));
    return std::move(result_);
  }

  const ConvertOptions& options_;
  PresetFacts facts_;
  FilePlan plan_;
  threads::Pool pool_;
  bool from_gguf_ = false, as_it_is_ = false;
  std::vector<std::pair<DType, std::unique_ptr<Loss>>> losses_;
  std::map<std::string, std::vector<float>> weights_;
  int64_t requantised_ = 0, unseen_ = 0, unweighted_ = 0, done_ = 0, all_ = 0;
  std::vector<std::string> unseen_names_;
  Converted result_;
};

}  // namespace

bool is_written(DType dtype) { return quant::has_encoder(dtype); }

Converted convert(const families::Model& model, const std::filesystem::path& out, const ConvertOptions& options) {
  const auto check = [](DType dtype, const char* option) {
    if (!tensor::info(dtype).weight)
      base::fail(ErrorKind::bad_input, option, "{} is not a format of weights", tensor::name(dtype));
  };
  if (options.to) check(*options.to, "convert.to");
  for (const auto& [place, dtype] : options.places) check(dtype, "convert.places");
  if (out.extension() == ".gguf") {
    refuse_same_file(model.path.path, out);
    return Writer(model, plan_gguf(model, options.tokenizer), options).write_gguf(out);
  }
  for (const char* ending : {".bin", ".safetensors", ".pt", ".pth", ".ggml"})
    if (out.extension() == ending)
      base::fail(ErrorKind::bad_input, out.string(),
                 "a GGUF file's name ends in .gguf; a model in safetensors is a folder, named without an ending");
  if (options.preset || !options.places.empty() || options.importance)
    base::fail(ErrorKind::bad_input, out.string(),
               "presets and importance are for GGUF: a file that ends "
               "in .gguf");
  if (options.to && tensor::is_block(*options.to))
    throw base::Error(ErrorKind::unsupported, "convert.to",
                      fmt::format("{} has no safetensors form", tensor::name(*options.to)),
                      "write a file that ends in .gguf, or take bf16, f16 or f32");
  refuse_existing(out);
  return Writer(model, plan_folder(model, options.tokenizer), options).write_folder(out);
}

}  // namespace coterie::surgery
