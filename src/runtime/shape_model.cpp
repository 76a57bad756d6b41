#include "runtime/shape_model.h"

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
    base::fail(base::ErrorKind::bad_input, "--quant", "{} is no format for weights", tensor::name(options.quant));
  models::ModelSpec spec = families::shape(options.shape, options.layers);
  std::string name =
      fmt::format("{} of {} layers, random {}", options.shape, spec.blocks.size(), tensor::name(options.quant));
  families::RandomModel random = families::random_model(spec, options.quant, name);
  if (!random.fallbacks.empty()) {
    std::vector<std::string_view> others;
    for (const tensor::DType dtype : random.fallbacks) others.push_back(tensor::name(dtype));
    name += fmt::format(" ({} where rows are no multiple of {})", fmt::join(others, ", "),
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
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const checkpoint::TensorInfo& tensor : model.source->tensors())
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, [&tensor](const auto& write) { write(tensor.bytes); }});
  checkpoint::write_gguf(path, tensors, model.source->metadata());
}

}  // namespace coterie::runtime
