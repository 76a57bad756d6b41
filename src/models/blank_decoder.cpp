#include "models/blank_decoder.h"

#include <algorithm>

namespace coterie::models {

namespace {

/// Points matrices at zeros that all share, and gives vectors zeros of their own.
class Blanker : public layers::TensorVisitor {
 public:
  explicit Blanker(const std::byte* zeros) : zeros_(zeros) {}

  void matrix(const Tensor&, int64_t rows, int64_t cols, tensor::Weight& slot) override {
    largest = std::max(largest, rows * cols);
    slot = {zeros_, tensor::DType::f32, rows, cols};
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             std::vector<tensor::Weight>& slots) override {
    slots.resize(static_cast<size_t>(experts));
    for (tensor::Weight& slot : slots) matrix(tensor, rows, cols, slot);
  }
  void vector(const Tensor&, int64_t n, layers::Vector& slot) override {
    slot.values = tensor::Buffer<float>(n);
    std::fill_n(slot.values.data(), n, 0.0f);
  }

  int64_t largest = 0;  // values of a matrix

 private:
  const std::byte* zeros_;
};

Binding bind_blank(Network& network) {
  Blanker measure(nullptr);
  network.visit(measure);
  Binding binding;
  tensor::Buffer<std::byte>& zeros =
      binding.decoded.emplace_back(measure.largest * static_cast<int64_t>(sizeof(float)));
  std::fill_n(zeros.data(), zeros.size(), std::byte{0});
  Blanker blanker(zeros.data());
  network.visit(blanker);
  network.arrange();
  return binding;
}

}  // namespace

std::unique_ptr<BoundDecoder> blank_decoder(const ModelSpec& spec) {
  return std::make_unique<BoundDecoder>(spec, [](Network& network) { return bind_blank(network); });
}

}  // namespace coterie::models
