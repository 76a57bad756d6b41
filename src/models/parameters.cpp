#include "models/parameters.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "quant/codec.h"

namespace coterie::models {

namespace {

using layers::TensorReader;
using layers::TensorVisitor;
using tensor::Weight;

class Counter : public TensorReader {
 public:
  explicit Counter(Parameters::Chosen chosen) : chosen_(chosen) {}
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const Weight&) override {
    if (chosen_(tensor)) matrices += rows * cols;
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector&) override {
    if (chosen_(tensor)) vectors += n;
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, const std::vector<Weight>&) override {
    if (chosen_(tensor)) matrices += experts * rows * cols;
  }
  int64_t matrices = 0, vectors = 0;

 private:
  Parameters::Chosen chosen_;
};

class Mover : public TensorVisitor {
 public:
  Mover(Parameters::Chosen chosen, float* values, float* gradient, std::vector<Parameter>& list)
      : chosen_(chosen), values_(values), gradient_(gradient), list_(list) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, Weight& slot) override {
    if (!chosen_(tensor)) return;
    add(tensor, {rows, cols}, values_, true);
    slot = move(slot);
  }
  void vector(const Tensor& tensor, int64_t n, layers::Vector& slot) override { add_vector(tensor, {n}, slot); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, layers::Vector& slot) override {
    add_vector(tensor, {rows, cols}, slot);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, std::vector<Weight>& slots) override {
    if (!chosen_(tensor)) return;
    add(tensor, {experts, rows, cols}, values_, true);
    for (Weight& slot : slots) slot = move(slot);
  }

 private:
  void add(const Tensor& tensor, const tensor::Shape& shape, float* values, bool matrix) {
    const int64_t count = tensor::element_count(shape);
    list_.push_back({tensor.path, tensor.place, shape, values, gradient_, count, !tensor.buffer, matrix, tensor.parts,
                     tensor.merged_with});
    gradient_ += count;
  }
  void add_vector(const Tensor& tensor, const tensor::Shape& shape, layers::Vector& slot) {
    if (!chosen_(tensor)) return;
    if (slot.minus_exp)
      throw base::Error(base::ErrorKind::unsupported, tensor.path, "the file holds -exp of this parameter",
                        "train from the Hugging Face form of the model");
    add(tensor, shape, slot.values.data(), false);
  }
  Weight move(const Weight& from) {
    const Weight to(reinterpret_cast<const std::byte*>(values_), tensor::DType::f32, from.rows, from.cols);
    for (int64_t r = 0; r < from.rows; ++r, values_ += from.cols)
      quant::decode(from.dtype, from.row(r), values_, from.cols);
    return to;
  }

  Parameters::Chosen chosen_;
  float *values_, *gradient_;
  std::vector<Parameter>& list_;
};

}  // namespace

Parameters::Parameters(Decoder& decoder) : Parameters(decoder, [](const layers::ListedTensor&) { return true; }) {}

Parameters::Parameters(std::vector<Parameter> list) : list_(std::move(list)) {
  int64_t count = 0;
  for (const Parameter& p : list_) count += p.count;
  gradient_ = tensor::Buffer<float>(count);
  float* at = gradient_.data();
  for (Parameter& p : list_) {
    p.gradient = at;
    at += p.count;
    gradients_.add(p.values, p.count, p.gradient);
  }
  clear_gradients();
}

Parameters::Parameters(Decoder& decoder, Chosen chosen) {
  Counter counter(chosen);
  decoder.read(counter);
  values_ = tensor::Buffer<float>(counter.matrices);
  gradient_ = tensor::Buffer<float>(counter.matrices + counter.vectors);
  Mover mover(chosen, values_.data(), gradient_.data(), list_);
  decoder.rebind(mover);
  for (const Parameter& p : list_)
    if (p.trained) gradients_.add(p.values, p.count, p.gradient);
  clear_gradients();
}

void Parameters::clear_gradients() { std::fill_n(gradient_.data(), gradient_.size(), 0.0f); }

}  // namespace coterie::models
