#include "families/random_model.h"

#include <cmath>
#include <optional>
#include <set>

#include "base/error.h"
#include "families/family.h"
#include "families/gguf/gguf_metadata.h"
#include "families/names/merged_rows.h"
#include "families/names/name_table.h"
#include "models/network.h"

namespace coterie::families {

namespace {

using layers::Place;
using tensor::DType;

class Drawer : public layers::TensorVisitor {
 public:
  Drawer(DType quant, float router_spread, const Family& family)
      : quant_(quant), router_spread_(router_spread), names_(gguf_names_of(family, Direction::reading)) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight&) override {
    DType dtype = quant_;
    if (tensor.place == Place::router || rows == 1) dtype = DType::f32;
    if (tensor.place == Place::output_embeddings && tensor::is_block(quant_) && tensor::bits_per_value(quant_) < 8)
      dtype = DType::q6_k;
    // Embeddings of unit size, projections that keep the size of what they read.
    const float scale = tensor.place == Place::input_embeddings ? 1.0f : inverse_root(cols);
    tensor::Shape shape = shape_of(tensor, {rows, cols});
    if (rows == 1) shape = {cols};
    if (shape.front() == 0) return;
    tensors.push_back({name(tensor), fitting(dtype, cols), shape, scale});
    if (tensor.place == Place::router && rows > 1) tensors.back().row_spread = router_spread_;
  }
  void vector(const Tensor& tensor, int64_t n, layers::Vector&) override { draw(tensor, {n}); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, layers::Vector&) override { draw(tensor, {rows, cols}); }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, std::vector<tensor::Weight>&) override {
    tensors.push_back({name(tensor), fitting(quant_, cols), {experts, rows, cols}, inverse_root(cols)});
  }

  std::vector<checkpoint::RandomTensor> tensors;
  std::set<DType> fallbacks;

 private:
  DType fitting(DType wanted, int64_t cols) {
    const DType dtype = fitting_format(wanted, cols);
    if (dtype != wanted) fallbacks.insert(dtype);
    return dtype;
  }
  static float inverse_root(int64_t n) { return 1.0f / std::sqrt(static_cast<float>(n)); }
  // Norms are near one, A near minus one, everything else small.
  void draw(const Tensor& tensor, const tensor::Shape& shape) {
    const bool norm = tensor.place == Place::norms && !tensor.path.ends_with(".bias");
    const NameInFile& in_file = name_of(tensor);
    const float offset = norm ? 1.0f : in_file.minus_exp ? (in_file.negated ? 1.0f : -1.0f) : 0.0f;
    tensors.push_back({name(tensor), DType::f32, shape_of(tensor, shape), 0.05f, offset});
  }
  tensor::Shape shape_of(const Tensor& tensor, tensor::Shape shape) const {
    shape.front() = rows_listed(name_of(tensor).piece, shape.front(), tensor.parts, tensor.merged_with);
    return shape_in_file(name_of(tensor).form, shape, tensor.parts);
  }
  const NameInFile& name_of(const Tensor& tensor) const {
    const std::vector<NameInFile>* names = names_.find(path_pattern(tensor.path).pattern);
    if (!names) base::fail(base::ErrorKind::unsupported, "random model", "GGUF has no name for {}", tensor.path);
    return names->front();
  }
  std::string name(const Tensor& tensor) const {
    const PathPattern path = path_pattern(tensor.path);
    return expand(name_of(tensor).pattern, path.layer, -1, path.item);
  }

  DType quant_;
  float router_spread_;
  NameTable names_;
};

}  // namespace

RandomModel random_model(const models::ModelSpec& spec, DType quant, const std::string& name, float router_spread) {
  if (!tensor::info(quant).weight)
    base::fail(base::ErrorKind::bad_input, "shape.quant", "{} is not a format of weights", tensor::name(quant));
  gguf_architecture(spec);  // or refuse
  models::Network network(spec);
  Drawer drawer(quant, router_spread, family_of(spec));
  network.visit(drawer);

  RandomModel model;
  model.tensors = std::move(drawer.tensors), model.fallbacks = std::move(drawer.fallbacks);
  model.metadata = gguf_metadata(spec, name);
  model.metadata["tokenizer.ggml.model"] = std::string("no_vocab");
  const auto* attention = std::get_if<layers::AttentionSpec>(&spec.blocks.front().mixer);
  if (const std::optional<layers::RopeSpec> rope = attention ? attention->rope : std::nullopt) {
    using Scaling = layers::RopeSpec::Scaling;
    // GGUF stores these scalings as what each frequency is divided by. Ones here: no speed depends on the values.
    const auto ones = [&](const char* divisors) {
      model.tensors.push_back({divisors, DType::f32, {rope->dims / 2}, 0, 1});
    };
    if (rope->scaling == Scaling::llama3) ones("rope_freqs.weight");
    if (rope->scaling == Scaling::longrope) ones("rope_factors_short.weight"), ones("rope_factors_long.weight");
  }
  // Of pairs that stand still (Gemma 4) too: llama.cpp opens no file without it.
  for (const models::BlockSpec& block : spec.blocks) {
    const layers::AttentionSpec* const full = attention_of(spec, block);
    if (!full || !full->rope || full->rope->turning_dims == 0) continue;
    model.tensors.push_back({"rope_freqs.weight", DType::f32, {full->rope->dims / 2}, 0, 1});
    break;
  }
  return model;
}

}  // namespace coterie::families
