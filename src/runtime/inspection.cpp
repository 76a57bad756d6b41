#include "runtime/inspection.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "checkpoint/quantization.h"
#include "runtime/kv_cache.h"
#include "runtime/speculation/step_seconds.h"
#include "runtime/weight_bytes.h"

namespace coterie::runtime {

namespace {

using models::kPlaces;
using models::Place;
using tensor::DType;

DType config_dtype(const std::filesystem::path& config) {
  const base::Json json = base::read_json(config);
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto value = json.find(key);
    if (value == json.end() || !value->is_string()) continue;
    if (*value == "float32") return DType::f32;
    if (*value == "float16") return DType::f16;
  }
  return DType::bf16;
}

/// In which format a config says that the matrices at `place` are published, where not in config_dtype: the experts of
/// gpt-oss in MXFP4; those of all layers in FP8 or in codes of 4 or 8 bits.
std::optional<DType> published_format(const base::Json& config, const std::string& where, Place place) {
  const auto found = config.find("quantization_config");
  if (found != config.end() && found->is_object() && found->value("quant_method", "") == "mxfp4")
    return place == Place::experts ? std::optional(DType::mxfp4) : std::nullopt;
  const bool layer =
      place == Place::mixer || place == Place::experts || place == Place::shared_experts || place == Place::dense_ffn;
  const auto quantised = layer ? checkpoint::read_quantization(config, where) : std::nullopt;
  if (!quantised) return {};
  if (quantised->floats) return DType::fp8_64;
  const bool wide = quantised->group % 64 == 0;
  if (quantised->bits == 4) return wide ? DType::int4_64_f16 : DType::int4_32_f16;
  return wide ? DType::int8_64_f16 : DType::int8_32_f16;
}

// Norms are vectors and stay in f32 in every format; so does what a router needs to decide in f32.
int64_t bytes_in(DType dtype, Place place, int64_t parameters) {
  const bool full = place == Place::norms || (place == Place::router && tensor::is_block(dtype));
  return static_cast<int64_t>(
      std::llround(static_cast<double>(parameters) * tensor::bits_per_value(full ? DType::f32 : dtype) / 8));
}

/// Of most bytes of matrices of layers, and of the output embeddings.
std::pair<DType, DType> formats_of(const models::Decoder& decoder) {
  class Bytes : public layers::TensorReader {
   public:
    void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& slot) override {
      if (tensor.path == "head" || (tensor.path == "embedding" && !seen_head)) output = slot.dtype;
      seen_head = seen_head || tensor.path == "head";
      if (tensor.path != "head" && tensor.path != "embedding") of[slot.dtype] += slot.bytes();
    }
    void stack(const Tensor&, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>& slots) override {
      for (const tensor::Weight& slot : slots) of[slot.dtype] += slot.bytes();
    }
    std::map<DType, int64_t> of;
    DType output = DType::bf16;
    bool seen_head = false;
  } bytes;
  decoder.read(bytes);
  const auto most = std::max_element(bytes.of.begin(), bytes.of.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return {most == bytes.of.end() ? bytes.output : most->first, bytes.output};
}

// Read for a token: as `active`, but one row of an input embedding that is not also the head.
std::array<int64_t, kPlaces> touched_parameters(const models::ModelSpec& spec, const models::Account& account) {
  auto touched = account.active;
  if (!spec.tied_embeddings) touched[static_cast<size_t>(Place::input_embeddings)] = spec.width;
  return touched;
}

/// Experts of one size each, by the bytes of all of them.
SlotClasses even_classes(const models::ModelSpec& spec, int64_t expert_bytes) {
  int64_t all = 0, widest = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      all += moe->experts_with_weights();
      widest = std::max(widest, moe->experts_with_weights());
    }
  if (all == 0) return {};
  return {{(expert_bytes + all - 1) / all}, {all}, {widest}};
}

/// As the engine lays experts out in slots, or nothing where they lie in no file as they are read.
std::optional<SlotClasses> classes_of_files(const families::Model& model) {
  FileTable files;
  try {
    ExpertLayout layout = ExpertLayout::of(*model.decoder, *model.source, files);
    if (layout.experts() == 0) return {};
    layout.fit(StoredFiles(files.files, files.samples, {}).unit());
    return slot_classes(layout);
  } catch (const base::Error& error) {
    if (error.kind() == base::ErrorKind::unsupported) return {};
    throw;
  }
}

}  // namespace

int64_t Inspection::weight_bytes() const { return std::accumulate(bytes_held.begin(), bytes_held.end(), int64_t{0}); }

int64_t Inspection::bytes_per_token() const {
  return std::accumulate(bytes_touched.begin(), bytes_touched.end(), int64_t{0}) +
         account.cache_bytes_per_token * context / 2 + account.state_bytes;
}

int64_t Inspection::bytes_per_step(int64_t drafted) const {
  const auto experts = static_cast<size_t>(Place::experts);
  const auto rows = static_cast<double>(1 + drafted);
  double read = static_cast<double>(bytes_per_token());
  if (account.held[experts] > 0) {
    const double share = static_cast<double>(account.active[experts]) / static_cast<double>(account.held[experts]);
    read += static_cast<double>(bytes_held[experts]) * (1 - std::pow(1 - share, rows)) -
            static_cast<double>(bytes_touched[experts]);
  }
  read += static_cast<double>(drafted) * 3 * static_cast<double>(account.state_bytes);  // moved on, read and written
  return static_cast<int64_t>(read);
}

double Inspection::step_cost(int64_t drafted, const RowCosts& rows) const {
  const auto experts = static_cast<size_t>(Place::experts);
  const auto count = static_cast<double>(1 + drafted);
  const double state = 2 * static_cast<double>(account.state_bytes);  // read and written
  const double routed = static_cast<double>(bytes_touched[experts]);
  const double plain = static_cast<double>(bytes_per_token()) - static_cast<double>(account.state_bytes) + state;
  double cost = (plain - routed - state) * rows.of(count);
  if (routed > 0 && account.held[experts] > 0) {
    const double share = static_cast<double>(account.active[experts]) / static_cast<double>(account.held[experts]);
    const double met = 1 - std::pow(1 - share, count);  // of all experts
    cost += static_cast<double>(bytes_held[experts]) * met * rows.of(count * share / met);
  }
  // Each row moves the state on and leaves a copy.
  cost += state * count;
  return cost / plain;
}

double Inspection::speculation_gain(int64_t drafted, double acceptance, const RowCosts& rows) const {
  return tokens_of_step(drafted, acceptance) / step_cost(drafted, rows);
}

double Inspection::speculation_gain(int64_t drafted, double acceptance) const {
  return tokens_of_step(drafted, acceptance) * static_cast<double>(bytes_per_token()) /
         static_cast<double>(bytes_per_step(drafted));
}

Inspection inspect(const std::filesystem::path& path, const InspectionOptions& options) {
  const checkpoint::ModelPath resolved = checkpoint::resolve_model(path);
  Inspection result;
  families::Model model;
  if (resolved.kind == checkpoint::ModelPath::Kind::config_only) {
    result.spec = families::read_spec(resolved, options.open);
    result.warnings = result.spec.warnings;
    const std::filesystem::path config = std::filesystem::absolute(resolved.config);
    result.name =
        config.filename() == "config.json" ? config.parent_path().filename().string() : config.stem().string();
    result.dtype = options.dtype ? *options.dtype : config_dtype(resolved.config);
  } else {
    model = families::open_model(path, options.open);
    result.spec = model.decoder->spec();
    result.warnings = model.warnings;
    result.name = model.name;
    result.has_weights = true;
    result.file_bytes = model.source->file_bytes();
    result.dtype = options.dtype;
  }
  const models::ModelSpec& spec = result.spec;
  if (options.context < 0 || (spec.context > 0 && options.context > spec.context))
    base::fail(base::ErrorKind::bad_input, "context", "is {}, the model was made for {}", options.context,
               spec.context);
  result.context = options.context > 0 ? options.context : std::min(kInspectedContext, spec.context);
  result.step_tokens = options.step_tokens;
  result.account = models::account(spec);

  if (result.dtype) {
    result.format = *result.dtype;
    const auto touched = touched_parameters(spec, result.account);
    const base::Json config = options.dtype ? base::Json() : base::read_json(resolved.config);
    for (int i = 0; i < kPlaces; ++i) {
      const auto place = static_cast<size_t>(i);
      const auto published =
          options.dtype ? std::nullopt : published_format(config, resolved.config.string(), static_cast<Place>(i));
      const DType dtype = published.value_or(*result.dtype);
      result.bytes_held[place] = bytes_in(dtype, static_cast<Place>(i), result.account.held[place]);
      result.bytes_touched[place] = bytes_in(dtype, static_cast<Place>(i), touched[place]);
    }
  } else {
    const WeightBytes bytes = weight_bytes(*model.decoder);
    result.bytes_held = bytes.held, result.bytes_touched = bytes.touched;
    std::tie(result.format, result.output_format) = formats_of(*model.decoder);
  }

  if (result.has_weights) {
    result.memory = forecast_memory(model, result.context, options.step_tokens, DType::f16, options.threads);
  } else {
    result.memory.process = process_bytes(spec);
    result.memory.cache = cache_bytes(cache_shape(spec, DType::f16), result.context);
    result.memory.scratch = scratch_bytes(spec, std::min(options.step_tokens, result.context), 1, options.threads);
  }
  if (options.memory > 0) {
    const CacheShape shape = cache_shape(spec, DType::f16);
    const int64_t experts = result.bytes_held[static_cast<size_t>(Place::experts)];
    Inspection::Stream stream{
        .positions = options.context > 0 ? options.context
                                         : planned_positions(options.memory, shape.position_bytes(), spec.context)};
    const bool files = result.has_weights && !result.dtype && model.source->format() != checkpoint::Format::memory;
    const int64_t held = files ? held_by_process(*model.source, 0) : process_bytes(spec);
    stream.needs = stream_needs(spec, held, result.weight_bytes() - experts, cache_bytes(shape, stream.positions),
                                std::min(options.step_tokens, spec.context), options.threads);
    const auto of_files = files ? classes_of_files(model) : std::nullopt;
    stream.classes = of_files ? *of_files : even_classes(spec, experts);
    if (!stream.classes.experts.empty()) result.stream = stream;
  }
  result.memory.weights = result.weight_bytes();
  return result;
}

}  // namespace coterie::runtime
