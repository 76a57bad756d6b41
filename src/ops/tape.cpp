#include "ops/tape.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "ops/rows.h"

namespace coterie::ops {

using base::require;
using tensor::ConstMatrix;
using tensor::Matrix;

void ParameterGradients::add(const float* values, int64_t count, float* gradient) {
  require(values && gradient && count >= 0, "parameter gradients", "{} floats without memory", count);
  if (count > 0) pieces_[reinterpret_cast<uintptr_t>(values)] = {count, gradient};
}

float* ParameterGradients::find(const void* address) const {
  const auto at = reinterpret_cast<uintptr_t>(address);
  auto found = pieces_.upper_bound(at);
  if (found == pieces_.begin()) return nullptr;
  --found;
  const auto index = static_cast<int64_t>((at - found->first) / sizeof(float));
  return index < found->second.count ? found->second.gradient + index : nullptr;
}

namespace {

std::pair<uintptr_t, uintptr_t> extent(ConstMatrix m) {
  if (m.rows == 0 || m.cols == 0) return {};
  return {reinterpret_cast<uintptr_t>(m.data), reinterpret_cast<uintptr_t>(m.row(m.rows - 1) + m.cols)};
}

bool overlap(ConstMatrix a, ConstMatrix b) {
  const auto [a_begin, a_end] = extent(a);
  const auto [b_begin, b_end] = extent(b);
  return a_begin < b_end && b_begin < a_end;
}

bool same(ConstMatrix a, ConstMatrix b) {
  return a.data == b.data && a.rows == b.rows && a.cols == b.cols && a.stride == b.stride;
}

}  // namespace

ConstMatrix Tape::save(ConstMatrix x) {
  for (const Saved& saved : unchanged_)
    if (same(saved.from, x)) return saved.copy;
  const Matrix copy = memory_.matrix(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, copy.row(r));
  unchanged_.push_back({x, copy});
  return copy;
}

void Tape::written(ConstMatrix memory) {
  std::erase_if(unchanged_, [&](const Saved& saved) { return overlap(saved.from, memory); });
}

void Tape::record(std::initializer_list<ConstMatrix> written_by_it, Step step) {
  for (const ConstMatrix& w : written_by_it) written(w);
  steps_.push_back(std::move(step));
}

float* Tape::outside(const void* address, int64_t count) {
  tensor::Buffer<float>& gradient = outside_[address];
  if (gradient.size() == 0 && count > 0) {
    gradient = tensor::Buffer<float>(count);
    std::fill_n(gradient.data(), count, 0.0f);
  }
  require(gradient.size() == count, "tape", "memory of {} floats was one of {} before", count, gradient.size());
  return gradient.data();
}

std::byte* Tape::gradient_at(const void* address) {
  const tensor::Arena::Place place = activations_.find(address);
  require(place.chunk >= 0, "tape", "a gradient was asked for of memory that is not of the forward's arena");
  const auto chunk = static_cast<size_t>(place.chunk);
  if (gradients_.size() <= chunk) gradients_.resize(chunk + 1);
  if (gradients_[chunk].size() == 0) {
    gradients_[chunk] = tensor::Buffer<std::byte>(activations_.chunk_bytes(place.chunk));
    std::memset(gradients_[chunk].data(), 0, static_cast<size_t>(gradients_[chunk].size()));
  }
  return gradients_[chunk].data() + place.offset;
}

void Tape::recompute(Context& context, std::vector<Matrix> inputs, std::function<void(Context&)> forward) {
  std::vector<ConstMatrix> before;
  for (const Matrix& input : inputs) before.push_back(save(input));
  const tensor::Arena::Mark mark = activations_.mark();
  Context quiet = context;
  quiet.tape = nullptr;
  forward(quiet);
  // It may have written anywhere: nothing saved so far counts as unchanged.
  unchanged_.clear();
  steps_.push_back([this, mark, quiet, inputs = std::move(inputs), before = std::move(before),
                    forward = std::move(forward)](Reverse&) mutable {
    for (size_t i = 0; i < inputs.size(); ++i)
      for (int64_t r = 0; r < inputs[i].rows; ++r) std::copy_n(before[i].row(r), inputs[i].cols, inputs[i].row(r));
    const tensor::Arena::Mark end = activations_.mark();
    const tensor::Arena::Mark saved = memory_.mark();
    activations_.release(mark);
    unchanged_.clear();
    const size_t first = steps_.size();
    Context recording = quiet;
    recording.tape = this;
    forward(recording);
    unchanged_.clear();
    activations_.release(end);
    run_back(quiet, first);
    memory_.release(saved);
  });
}

void Tape::run_back(const Context& context, size_t first) {
  while (steps_.size() > first) {
    Step step = std::move(steps_.back());
    steps_.pop_back();
    const tensor::ArenaScope scope(scratch_);
    Reverse reverse(*this, context);
    step(reverse);
  }
}

void Tape::backward(const Context& context) {
  unchanged_.clear();
  try {
    run_back(context, 0);
  } catch (...) {
    clear();
    throw;
  }
  outside_.clear();
  memory_.reset();
}

void Tape::clear() {
  steps_.clear(), unchanged_.clear(), outside_.clear();
  gradients_.clear();  // what a step that was given up left there is no gradient of anything
  memory_.reset(), scratch_.reset();
}

int64_t Tape::bytes() const {
  int64_t bytes = memory_.capacity() + scratch_.capacity();
  for (const auto& chunk : gradients_) bytes += chunk.size();
  for (const auto& [address, gradient] : outside_) bytes += gradient.size() * static_cast<int64_t>(sizeof(float));
  return bytes;
}

Reverse::Reverse(Tape& tape, const Context& context)
    : tape_(tape), context_{context.pool, context.kernels, tape.scratch_, Precision::f32, nullptr} {}

Matrix Reverse::gradient(ConstMatrix activation) {
  if (activation.rows == 0 || activation.cols == 0) return {nullptr, activation.rows, activation.cols};
  auto* data = reinterpret_cast<float*>(tape_.gradient_at(activation.data));
  return {data, activation.rows, activation.cols, activation.stride};
}

Matrix Reverse::gradient(const tensor::Weight& weight) {
  if (!weight || weight.dtype != tensor::DType::f32) return {};
  float* data = tape_.parameters_.find(weight.data);
  if (!data) return {};
  return {data, weight.rows, weight.cols, weight.row_stride / static_cast<int64_t>(sizeof(float))};
}

float* Reverse::gradient(const float* vector) {
  if (!vector) return nullptr;
  if (float* found = tape_.parameters_.find(vector)) return found;
  const auto found = tape_.outside_.find(vector);
  return found == tape_.outside_.end() ? nullptr : found->second.data();
}

void refuse_tape(const Context& context, std::string_view op) {
  if (context.tape) base::fail(base::ErrorKind::unsupported, op, "has no backward: it cannot be trained through");
}

}  // namespace coterie::ops
