#include "runtime/shape_model.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "checkpoint/random_source.h"
#include "checkpoint/tensor_sink.h"
#include "families/random_model.h"
#include "families/shapes.h"

namespace coterie::runtime {

std::string shape_names() { return fmt::format("{}", fmt::join(families::shape_names(), ", ")); }

families::Model shape_model(const ShapeOptions& options, const families::OpenOptions& open) {
  if (!tensor::info(options.quant).weight)
    base::fail(base::ErrorKind::bad_input, "shape.quant", "{} is not a format of weights", tensor::name(options.quant));
  if (!std::isfinite(options.router_spread) || options.router_spread < 0 || options.router_spread > 4)
    base::fail(base::ErrorKind::bad_input, "shape.router_spread", "is {}, expected 0 to 4", options.router_spread);
  models::ModelSpec spec = families::shape(options.shape, options.layers);
  std::string name =
      fmt::format("{} of {} layers, random {}", options.shape, spec.blocks.size(), tensor::name(options.quant));
  families::RandomModel random =
      families::random_model(spec, options.quant, name, static_cast<float>(options.router_spread));
  if (options.router_spread > 0 &&
      std::none_of(random.tensors.begin(), random.tensors.end(), [](const auto& t) { return t.row_spread != 0; }))
    base::fail(base::ErrorKind::bad_input, "shape.router_spread", "{} has no routers", options.shape);
  if (!random.fallbacks.empty()) {
    std::vector<std::string_view> others;
    for (const tensor::DType dtype : random.fallbacks) others.push_back(tensor::name(dtype));
    name += fmt::format(" ({} where rows are not a multiple of {})", fmt::join(others, ", "),
                        tensor::info(options.quant).block_values);
  }
  families::apply(open, spec);

  families::Model model;
  model.source = checkpoint::random_source(std::move(random.tensors), std::move(random.metadata), options.seed);
  model.decoder = families::bind_decoder(spec, *model.source);
  model.name = name;
  return model;
}

void write_shape_model(const families::Model& model, const std::filesystem::path& path) {
  try {
    const models::ModelSpec again =
        families::read_spec({checkpoint::ModelPath::Kind::gguf_file, path, {}}, model.source.get(), {});
    base::require(again.blocks.size() == model.decoder->spec().blocks.size(), "write_shape_model",
                  "{} layers are read again", again.blocks.size());
  } catch (const base::Error& error) {
    if (error.kind() == base::ErrorKind::internal) throw;
    throw base::Error(
        base::ErrorKind::unsupported, "shape.write",
        fmt::format("{}: a GGUF file of this model could not be read again: {}", path.string(), error.message()),
        "more `shape.layers`, until each kind of layer is among them, can be written");
  }
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const checkpoint::TensorInfo& tensor : model.source->tensors())
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, [&tensor](const auto& write) { write(tensor.bytes); }});
  checkpoint::write_gguf(path, tensors, model.source->metadata());
}

std::vector<std::string> notes_of_written(const families::Model& model) {
  // llama.cpp (src/llama-model.cpp) takes queries without a low rank from the number of layers of DeepSeek-V2-Lite.
  constexpr size_t kLite = 27;
  const models::ModelSpec& spec = model.decoder->spec();
  const auto* latent = std::get_if<layers::LatentAttentionSpec>(&spec.blocks.front().mixer);
  if (!latent || latent->q_rank > 0 || spec.blocks.size() == kLite) return {};
  return {
      fmt::format("llama.cpp and ik_llama.cpp open latent attention whose queries have no low rank in models of {} "
                  "layers alone: they will refuse this file",
                  kLite)};
}

}  // namespace coterie::runtime
