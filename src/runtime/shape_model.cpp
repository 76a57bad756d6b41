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

namespace {

struct Drawn {
  models::ModelSpec spec;
  families::RandomModel random;
  std::string name;
};

Drawn draw(const ShapeOptions& options, const families::OpenOptions& open) {
  if (!tensor::info(options.quant).weight)
    base::fail(base::ErrorKind::bad_input, "shape.quant", "{} is not a format of weights", tensor::name(options.quant));
  if (!std::isfinite(options.router_spread) || options.router_spread < 0 || options.router_spread > 4)
    base::fail(base::ErrorKind::bad_input, "shape.router_spread", "is {}, expected 0 to 4", options.router_spread);
  Drawn drawn{.spec = families::shape(options.shape, options.layers), .random = {}, .name = {}};
  drawn.name =
      fmt::format("{} of {} layers, random {}", options.shape, drawn.spec.blocks.size(), tensor::name(options.quant));
  drawn.random =
      families::random_model(drawn.spec, options.quant, drawn.name, static_cast<float>(options.router_spread));
  const families::RandomModel& random = drawn.random;
  if (options.router_spread > 0 &&
      std::none_of(random.tensors.begin(), random.tensors.end(), [](const auto& t) { return t.row_spread != 0; }))
    base::fail(base::ErrorKind::bad_input, "shape.router_spread", "{} has no routers", options.shape);
  if (!random.fallbacks.empty()) {
    std::vector<std::string_view> others;
    for (const tensor::DType dtype : random.fallbacks) others.push_back(tensor::name(dtype));
    drawn.name += fmt::format(" ({} where rows are not a multiple of {})", fmt::join(others, ", "),
                              tensor::info(options.quant).block_values);
  }
  families::apply(open, drawn.spec);
  return drawn;
}

/// What a file will say of its tensors, before it is there.
class Announced final : public checkpoint::TensorSource {
 public:
  explicit Announced(const families::RandomModel& random) : metadata_(random.metadata) {
    for (const checkpoint::RandomTensor& tensor : random.tensors)
      tensors_.push_back({tensor.name, tensor.dtype, tensor.shape, {}});
  }
  checkpoint::Format format() const override { return checkpoint::Format::memory; }
  std::string where() const override { return "random weights"; }
  std::span<const checkpoint::TensorInfo> tensors() const override { return tensors_; }
  const checkpoint::TensorInfo* find(std::string_view name) const override {
    const auto found = std::find_if(tensors_.begin(), tensors_.end(), [&](const auto& t) { return t.name == name; });
    return found == tensors_.end() ? nullptr : &*found;
  }
  const checkpoint::Metadata& metadata() const override { return metadata_; }
  int64_t file_bytes() const override { return 0; }

 private:
  std::vector<checkpoint::TensorInfo> tensors_;
  const checkpoint::Metadata& metadata_;
};

}  // namespace

families::Model shape_model(const ShapeOptions& options, const families::OpenOptions& open) {
  Drawn drawn = draw(options, open);
  families::Model model;
  model.source =
      checkpoint::random_source(std::move(drawn.random.tensors), std::move(drawn.random.metadata), options.seed);
  model.decoder = families::bind_decoder(drawn.spec, *model.source);
  model.name = drawn.name;
  return model;
}

void write_shape_model(const ShapeOptions& options, const families::OpenOptions& open,
                       const std::filesystem::path& path,
                       const std::function<void(int64_t written, int64_t all)>& on_progress) {
  const Drawn drawn = draw(options, open);
  try {
    const Announced source(drawn.random);
    const models::ModelSpec again =
        families::read_spec({checkpoint::ModelPath::Kind::gguf_file, path, {}}, &source, {});
    base::require(again.blocks.size() == drawn.spec.blocks.size(), "write_shape_model", "{} layers are read again",
                  again.blocks.size());
  } catch (const base::Error& error) {
    if (error.kind() == base::ErrorKind::internal) throw;
    throw base::Error(
        base::ErrorKind::unsupported, "shape.write",
        fmt::format("{}: a GGUF file of this model could not be read again: {}", path.string(), error.message()),
        "more `shape.layers`, until each kind of layer is among them, can be written");
  }
  write_random_model(drawn.random, options.seed, path, on_progress);
}

void write_random_model(const families::RandomModel& model, uint64_t seed, const std::filesystem::path& path,
                        const std::function<void(int64_t written, int64_t all)>& on_progress) {
  int64_t all = 0, written = 0;
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const checkpoint::RandomTensor& tensor : model.tensors) {
    all += tensor::element_count(tensor.shape) / tensor.shape.back() *
           tensor::row_bytes(tensor.dtype, tensor.shape.back());
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, [&](const auto& write) {
                         if (on_progress) on_progress(written, all);
                         // Alone it has the bytes that it has among others.
                         const auto source = checkpoint::random_source({tensor}, {}, seed);
                         const std::span<const std::byte> bytes = source->tensors().front().bytes;
                         write(bytes);
                         written += std::ssize(bytes);
                       }});
  }
  checkpoint::write_gguf(path, tensors, model.metadata);
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
