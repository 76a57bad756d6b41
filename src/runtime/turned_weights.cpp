#include "runtime/turned_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/memory.h"

namespace coterie::runtime {

namespace {

using tensor::Weight;

constexpr int64_t kStepBytes = 8 << 20;   // turned between two looks at the clock: a few milliseconds
constexpr int64_t kTaskBytes = 64 << 10;  // turned by a worker at a time

/// The bytes that a weight's rows lie in, gaps between them included.
std::span<const std::byte> extent(const Weight& weight) {
  const int64_t last = tensor::row_bytes(weight.dtype, weight.cols);
  return {weight.data, static_cast<size_t>((weight.rows - 1) * weight.row_stride + last)};
}

int64_t panels_of(const Weight& weight, int64_t panel_rows) { return weight.rows / panel_rows; }

}  // namespace

/// What can be turned, in the order of the layers.
class TurnedWeights::Collector : public layers::TensorVisitor {
 public:
  Collector(const checkpoint::TensorSource& source, const kernels::MatmulKernels& kernels) : kernels_(kernels) {
    for (const checkpoint::TensorInfo& tensor : source.tensors())
      if (!tensor.bytes.empty()) files_.push_back(tensor.bytes);
    std::sort(files_.begin(), files_.end(), [](auto a, auto b) { return a.data() < b.data(); });
  }

  void matrix(const Tensor& tensor, int64_t, int64_t, Weight& slot) override { add(tensor, {slot}, false); }
  void vector(const Tensor&, int64_t, layers::Vector&) override {}
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, std::vector<Weight>& slots) override {
    add(tensor, slots, true);
  }

  std::deque<Part> result;

 private:
  void add(const Tensor& tensor, std::vector<Weight> weights, bool stack) {
    if (weights.empty() || tensor.place == layers::Place::input_embeddings) return;
    Part part;
    for (const Weight& weight : weights) {
      if (!weight || kernels_.fast[static_cast<size_t>(weight.dtype)].turned_lead < 0) return;
      if (weight.rows % kernels_.panel_rows != 0 || !in_file(extent(weight))) return;
      part.size += weight.bytes();
    }
    part.weights = std::move(weights), part.stack = stack;
    result.push_back(std::move(part));
  }
  bool in_file(std::span<const std::byte> bytes) const {
    const auto after = std::upper_bound(files_.begin(), files_.end(), bytes.data(),
                                        [](const std::byte* at, auto file) { return at < file.data(); });
    return after != files_.begin() &&
           bytes.data() + bytes.size() <= std::prev(after)->data() + std::prev(after)->size();
  }

  const kernels::MatmulKernels& kernels_;
  std::vector<std::span<const std::byte>> files_;
};

/// Points the slots that hold `from` at `to`.
class TurnedWeights::Pointer : public layers::TensorVisitor {
 public:
  Pointer(const std::vector<Weight>& from, const std::vector<Weight>& to, bool stack)
      : from_(from), to_(to), stack_(stack) {}
  void matrix(const Tensor&, int64_t, int64_t, Weight& slot) override {
    if (!stack_ && same(slot)) slot = to_.front();
  }
  void vector(const Tensor&, int64_t, layers::Vector&) override {}
  void stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<Weight>& slots) override {
    if (stack_ && slots.size() == to_.size() && same(slots.front())) slots = to_;
  }

 private:
  bool same(const Weight& slot) const {
    const Weight& sought = from_.front();
    return slot.data == sought.data && slot.dtype == sought.dtype && slot.rows == sought.rows &&
           slot.row_stride == sought.row_stride;
  }

  const std::vector<Weight>&from_, &to_;
  bool stack_;
};

TurnedWeights::TurnedWeights(models::Decoder& decoder, const checkpoint::TensorSource& source,
                             const kernels::MatmulKernels& kernels)
    : decoder_(decoder), kernels_(kernels) {
  if (source.format() == checkpoint::Format::memory || !kernels.turn) return;
  Collector collector(source, kernels);
  decoder.visit(collector);
  waiting_ = std::move(collector.result);
}

namespace {

/// The same weights one after another from `bytes` on, turned.
std::vector<Weight> turned_at(const std::vector<Weight>& weights, const std::byte* bytes) {
  std::vector<Weight> turned;
  for (const Weight& weight : weights) {
    turned.emplace_back(bytes, weight.dtype, weight.rows, weight.cols).turned = true;
    bytes += weight.bytes();
  }
  return turned;
}

}  // namespace

TurnedWeights::~TurnedWeights() {
  for (const Part& part : turned_) {
    const std::vector<Weight> turned = turned_at(part.weights, part.bytes.data());
    Pointer back(turned, part.weights, part.stack);
    decoder_.rebind(back);
  }
}

void TurnedWeights::advance(threads::Pool& pool, double seconds, int64_t spare) {
  const base::Stopwatch clock;
  const bool all = seconds == std::numeric_limits<double>::infinity();
  while (!waiting_.empty() && clock.seconds() < seconds) {
    Part& part = waiting_.front();
    if (part.next == 0) {
      if (base::available_memory() < part.size + spare) {
        waiting_.clear();
        return;
      }
      const bool there = std::all_of(part.weights.begin(), part.weights.end(),
                                     [](const Weight& weight) { return base::in_memory(extent(weight)); });
      if (!there && !all) {  // to ask takes a while itself: the next one is for the next call
        waiting_.push_back(std::move(part));
        waiting_.pop_front();
        return;
      }
      part.bytes = tensor::Buffer<std::byte>(part.size);
    }
    int64_t panels = 0;
    for (const Weight& weight : part.weights) panels += panels_of(weight, kernels_.panel_rows);
    const int64_t step = std::max<int64_t>(1, panels * kStepBytes / part.size);
    turn_panels(pool, part, std::min(step, panels - part.next));
    if (part.next < panels) continue;
    finish(std::move(part));
    waiting_.pop_front();
  }
}

void TurnedWeights::turn_panels(threads::Pool& pool, Part& part, int64_t count) const {
  // All weights of a part have the same shape but for their formats.
  const int64_t each = panels_of(part.weights.front(), kernels_.panel_rows);
  const int64_t panel_bytes = part.size / (each * std::ssize(part.weights));
  const int64_t grain = std::max<int64_t>(1, kTaskBytes / panel_bytes);
  std::vector<int64_t> offset;
  int64_t at = 0;
  for (const Weight& weight : part.weights) offset.push_back(std::exchange(at, at + weight.bytes()));
  pool.each((count + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t begin = part.next + task * grain, end = std::min(begin + grain, part.next + count);
    for (int64_t panel = begin; panel < end; ++panel) {
      const auto which = static_cast<size_t>(panel / each);
      const Weight& weight = part.weights[which];
      const tensor::DTypeInfo& info = tensor::info(weight.dtype);
      const int64_t row = panel % each * kernels_.panel_rows;
      kernels_.turn(weight.row(row), weight.row_stride, weight.cols / info.block_values, info.block_bytes,
                    kernels_.fast[static_cast<size_t>(weight.dtype)].turned_lead,
                    part.bytes.data() + offset[which] + row * tensor::row_bytes(weight.dtype, weight.cols));
    }
  });
  part.next += count;
}

void TurnedWeights::finish(Part part) {
  const std::vector<Weight> turned = turned_at(part.weights, part.bytes.data());
  Pointer there(part.weights, turned, part.stack);
  decoder_.rebind(there);
  // Nobody reads the file's pages any more; who does finds them in the file.
  for (const Weight& weight : part.weights) base::give_back(extent(weight));
  turned_bytes_ += part.size;
  turned_.push_back(std::move(part));
}

bool TurnedWeights::holds(std::span<const std::byte> bytes) const {
  return std::any_of(turned_.begin(), turned_.end(), [&](const Part& part) {
    return std::any_of(part.weights.begin(), part.weights.end(), [&](const Weight& weight) {
      return weight.data >= bytes.data() && weight.data < bytes.data() + bytes.size();
    });
  });
}

}  // namespace coterie::runtime
