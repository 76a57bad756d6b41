#include "models/parameters.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "quant/rows.h"

namespace coterie::models {

namespace {

using layers::TensorReader;
using layers::TensorVisitor;
using tensor::Weight;

constexpr auto all_experts = [](int64_t experts) { return ExpertRange{0, experts}; };

/// Whether the first axis of a tensor is that of a layer's routed experts.
bool is_of_experts(layers::Place place, const tensor::Shape& shape) {
  return place == layers::Place::experts && shape.size() > 1;
}

/// Narrows what is all here to the experts of `own`.
void narrow(Parameter& p, Parameters::Own own) {
  if (!is_of_experts(p.place, p.shape)) return;
  p.experts = p.shape.front();
  const auto [first, end] = own(p.experts);
  p.first = first, p.count = (end - first) * p.of_expert();
}

class Counter : public TensorReader {
 public:
  Counter(Parameters::Chosen chosen, Parameters::Own own) : chosen_(chosen), own_(own) {}
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const Weight&) override {
    if (chosen_(tensor)) matrices += rows * cols;
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector&) override {
    if (chosen_(tensor)) vectors += n;
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, const std::vector<Weight>&) override {
    if (!chosen_(tensor)) return;
    const ExpertRange own = tensor.place == layers::Place::experts ? own_(experts) : all_experts(experts);
    matrices += (own.end - own.first) * rows * cols;
  }
  int64_t matrices = 0, vectors = 0;

 private:
  Parameters::Chosen chosen_;
  Parameters::Own own_;
};

class Mover : public TensorVisitor {
 public:
  Mover(Parameters::Chosen chosen, Parameters::Own own, float* values, float* gradient, std::vector<Parameter>& list)
      : chosen_(chosen), own_(own), values_(values), gradient_(gradient), list_(list) {}

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
    const Parameter& p = list_.back();
    const int64_t first = p.experts > 0 ? p.first : 0, end = p.experts > 0 ? first + p.count / (rows * cols) : experts;
    for (int64_t e = 0; e < experts; ++e) {
      Weight& slot = slots[static_cast<size_t>(e)];
      slot = e >= first && e < end ? move(slot) : Weight(nullptr, tensor::DType::f32, rows, cols);
    }
  }

 private:
  void add(const Tensor& tensor, const tensor::Shape& shape, float* values, bool matrix) {
    list_.push_back({tensor.path, tensor.place, shape, values, gradient_, tensor::element_count(shape), !tensor.buffer,
                     matrix, tensor.parts, tensor.merged_with});
    narrow(list_.back(), own_);
    gradient_ += list_.back().count;
  }
  void add_vector(const Tensor& tensor, const tensor::Shape& shape, layers::Vector& slot) {
    if (!chosen_(tensor)) return;
    if (slot.minus_exp)
      throw base::Error(base::ErrorKind::unsupported, tensor.path, "the file holds -exp of this parameter",
                        "train from the Hugging Face form of the model");
    add(tensor, shape, slot.values.data(), false);
    list_.back().values += list_.back().begin();
  }
  Weight move(const Weight& from) {
    const Weight to(reinterpret_cast<const std::byte*>(values_), tensor::DType::f32, from.rows, from.cols);
    for (int64_t r = 0; r < from.rows; ++r, values_ += from.cols) quant::decode_row(from, r, values_);
    return to;
  }

  Parameters::Chosen chosen_;
  Parameters::Own own_;
  float *values_, *gradient_;
  std::vector<Parameter>& list_;
};

}  // namespace

Parameters::Parameters(Decoder& decoder) : Parameters(decoder, [](const layers::ListedTensor&) { return true; }) {}

Parameters::Parameters(std::vector<Parameter> list) : Parameters(std::move(list), all_experts) {}

Parameters::Parameters(std::vector<Parameter> list, Own own) : list_(std::move(list)) {
  int64_t count = 0;
  for (Parameter& p : list_) {
    narrow(p, own);
    p.values += p.begin();
    count += p.count;
  }
  gradient_ = tensor::Buffer<float>(count);
  float* at = gradient_.data();
  for (Parameter& p : list_) {
    p.gradient = at;
    at += p.count;
    gradients_.add(p.values, p.count, p.gradient);
  }
  clear_gradients();
}

Parameters::Parameters(Decoder& decoder, Chosen chosen) : Parameters(decoder, chosen, all_experts) {}

Parameters::Parameters(Decoder& decoder, Chosen chosen, Own own) {
  Counter counter(chosen, own);
  decoder.read(counter);
  values_ = tensor::Buffer<float>(counter.matrices);
  gradient_ = tensor::Buffer<float>(counter.matrices + counter.vectors);
  Mover mover(chosen, own, values_.data(), gradient_.data(), list_);
  decoder.rebind(mover);
  for (const Parameter& p : list_)
    if (p.trained) gradients_.add(p.values, p.count, p.gradient);
  clear_gradients();
}

void Parameters::clear_gradients() { std::fill_n(gradient_.data(), gradient_.size(), 0.0f); }

}  // namespace coterie::models
