#include "layers/tensor_list.h"

#include <array>

namespace coterie::layers {

std::string_view name(Place place) {
  static constexpr std::array<std::string_view, kPlaces> kNames = {
      "input_embeddings", "mixer", "router", "experts", "shared_experts", "dense_ffn", "norms", "output_embeddings"};
  return kNames[static_cast<size_t>(place)];
}

void TensorReader::matrix(const Tensor&, int64_t, int64_t, const tensor::Weight&) {}
void TensorReader::vector(const Tensor&, int64_t, const Vector&) {}
void TensorReader::stack(const Tensor&, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>&) {}
void TensorReader::table(const Tensor& tensor, int64_t rows, int64_t cols, const Vector& slot) {
  vector(tensor, rows * cols, slot);
}
void TensorReader::vectors(const Tensor& tensor, int64_t experts, int64_t n, const Vector& slot) {
  table(tensor, experts, n, slot);
}
void TensorReader::lora(const Tensor&, int64_t, int64_t, const Lora&) {}
void TensorReader::loras(const Tensor&, int64_t, int64_t, int64_t, const std::vector<ops::LowRank>&) {}

void Reading::matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) {
  reader_.matrix(tensor, rows, cols, slot);
}
void Reading::vector(const Tensor& tensor, int64_t n, Vector& slot) { reader_.vector(tensor, n, slot); }
void Reading::stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
                    std::vector<tensor::Weight>& slot) {
  reader_.stack(tensor, experts, rows, cols, slot);
}
void Reading::table(const Tensor& tensor, int64_t rows, int64_t cols, Vector& slot) {
  reader_.table(tensor, rows, cols, slot);
}
void Reading::vectors(const Tensor& tensor, int64_t experts, int64_t n, Vector& slot) {
  reader_.vectors(tensor, experts, n, slot);
}
void Reading::lora(const Tensor& tensor, int64_t rows, int64_t cols, Lora& slot) {
  reader_.lora(tensor, rows, cols, slot);
}
void Reading::loras(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
                    std::vector<ops::LowRank>& slot) {
  reader_.loras(tensor, experts, rows, cols, slot);
}

}  // namespace coterie::layers
