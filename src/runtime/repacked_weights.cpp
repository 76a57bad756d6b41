#include "runtime/repacked_weights.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "layers/weight_names.h"
#include "runtime/weight_moves.h"

namespace coterie::runtime {

namespace {

using tensor::Weight;

constexpr int64_t kStepBytes = 8 << 20;   // repacked between two looks at the clock: a few milliseconds
constexpr int64_t kTaskBytes = 64 << 10;  // repacked by a worker at a time
constexpr int64_t kShare = 32;            // of all weights that are repacked before the decoder is told
constexpr int kMostLooks = 8;             // at a tensor that is not in memory, before it stays where it is

/// Some rows of the same weights one after another from `bytes` on, repacked. What the weights say of other rows lies
/// nowhere.
std::vector<Weight> repacked_at(const std::vector<Weight>& weights, ops::RowRange rows, const std::byte* bytes) {
  std::vector<Weight> repacked;
  for (const Weight& weight : weights) {
    Weight& there = repacked.emplace_back(bytes, weight.dtype, weight.rows, weight.cols);
    there.repacked = true;
    there.data = bytes - rows.begin * there.row_stride;
    bytes += rows.size() * there.row_stride;
  }
  return repacked;
}

std::span<const std::byte> extent_of(const Weight& weight, ops::RowRange rows) {
  return extent(weight.row_range(rows.begin, rows.end));
}

}  // namespace

/// What can be repacked, in the order of the layers.
class RepackedWeights::Collector : public layers::TensorReader {
 public:
  Collector(const checkpoint::TensorSource& source, const kernels::MatmulKernels& kernels, const OwnWeights& own)
      : kernels_(kernels), own_(own) {
    for (const checkpoint::TensorInfo& tensor : source.tensors())
      if (!tensor.bytes.empty()) files_.push_back(tensor.bytes);
    std::sort(files_.begin(), files_.end(), [](auto a, auto b) { return a.data() < b.data(); });
  }

  void matrix(const Tensor& tensor, int64_t, int64_t, const Weight& slot) override { add(tensor, {slot}, false); }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<Weight>& slots) override {
    add(tensor, slots, true);
  }

  std::deque<Part> result;

 private:
  void add(const Tensor& tensor, std::vector<Weight> weights, bool stack) {
    std::erase_if(weights, [](const Weight& weight) { return !weight; });  // experts that others have
    if (!own_.has_layer(layers::layer_of(tensor.path))) return;
    if (weights.empty() || weights.front().rows == 0 || tensor.place == layers::Place::input_embeddings) return;
    if (tensor.place == layers::Place::router) return;  // few bytes, and that of soft mixtures is read row by row too
    Part part;
    const Weight& first = weights.front();
    part.rows = {0, first.rows};
    // What is taken out of a matrix by itself, and stacks of heads, ranks do not divide.
    if (tensor.parts == 1 && (!stack || tensor.place == layers::Place::experts))
      part.rows = own_.rows.own_rows(first.rows, first.cols, kernels_.panel_rows);
    for (const Weight& weight : weights) {
      const kernels::RepackedOrder order = kernels_.fast[static_cast<size_t>(weight.dtype)].repacked;
      if (order.count == 0 || tensor::row_bytes(weight.dtype, weight.cols) % order.block_bytes != 0) return;
      // Heads are taken out of it by themselves: each whole panels.
      if (weight.rows % tensor.parts != 0 || weight.rows / tensor.parts % kernels_.panel_rows != 0) return;
      if (weight.cols == 0 || !in_file(extent(weight))) return;
      part.size += weight.row_range(part.rows.begin, part.rows.end).bytes();
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
  const OwnWeights& own_;
  std::vector<std::span<const std::byte>> files_;
};

RepackedWeights::RepackedWeights(models::Decoder& decoder, const checkpoint::TensorSource& source,
                                 const kernels::MatmulKernels& kernels, const OwnWeights& own)
    : decoder_(decoder), kernels_(kernels) {
  if (source.format() == checkpoint::Format::memory || !kernels.repack) return;
  Collector collector(source, kernels, own);
  decoder.read(collector);
  waiting_ = std::move(collector.result);
  for (const Part& part : waiting_) total_bytes_ += part.size;
}

RepackedWeights::~RepackedWeights() {
  if (repacked_.empty()) return;
  try {
    WeightMoves back;
    for (const Part& part : repacked_) back.add(part.repacked, part.weights, part.stack);
    decoder_.rebind(back);
  } catch (...) {  // no memory for it: then the decoder must not run again, and mostly goes with this
  }
}

void RepackedWeights::advance(threads::Pool& pool, double seconds, int64_t spare, bool read) {
  const base::Stopwatch clock;
  while (!waiting_.empty() && clock.seconds() < seconds) {
    Part& part = waiting_.front();
    if (part.next == 0) {
      const bool there = read || std::all_of(part.weights.begin(), part.weights.end(), [&](const Weight& weight) {
                           return base::in_memory(extent_of(weight, part.rows));
                         });
      if (!there) {  // to ask takes a while itself: the next one is for the next call
        if (++part.looks < kMostLooks) waiting_.push_back(std::move(part));
        waiting_.pop_front();
        break;
      }
      if (!make_room(part, spare)) {
        waiting_.clear();
        break;
      }
    }
    const int64_t panels = panels_each(part) * std::ssize(part.weights);
    const int64_t step = std::max<int64_t>(1, panels * kStepBytes / part.size);
    repack_panels(pool, part, std::min(step, panels - part.next));
    if (part.next < panels) continue;
    repacked_.push_back(std::move(part));
    waiting_.pop_front();
    unread_bytes_ += repacked_.back().size;
    // All weights are walked for it: not for every matrix of a layer.
    if (kShare * unread_bytes_ >= total_bytes_) point_there();
  }
  if (waiting_.empty()) point_there();
}

int64_t RepackedWeights::doubled_bytes() const {
  int64_t most = 0, unread = 0;
  for (const Part& part : waiting_) {
    most = std::max(most, unread += part.size);
    if (kShare * unread >= total_bytes_) unread = 0;
  }
  return most;
}

bool RepackedWeights::make_room(Part& part, int64_t spare) const {
  if (base::available_memory() < part.size + spare) return false;
  try {
    part.bytes = tensor::Buffer<std::byte>(part.size);
  } catch (const base::Error&) {
    return false;
  }
  part.repacked = repacked_at(part.weights, part.rows, part.bytes.data());
  return true;
}

void RepackedWeights::repack_panels(threads::Pool& pool, Part& part, int64_t count) const {
  const int64_t each = panels_each(part), panel_bytes = part.size / (each * std::ssize(part.weights));
  const int64_t grain = std::max<int64_t>(1, kTaskBytes / panel_bytes);
  pool.each((count + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t begin = part.next + task * grain, end = std::min(begin + grain, part.next + count);
    for (int64_t panel = begin; panel < end; ++panel) {
      const auto which = static_cast<size_t>(panel / each);
      const Weight& weight = part.weights[which];
      const int64_t row = part.rows.begin + panel % each * kernels_.panel_rows;
      kernels_.repack(weight.row(row), weight.row_stride, tensor::row_bytes(weight.dtype, weight.cols),
                      kernels_.fast[static_cast<size_t>(weight.dtype)].repacked,
                      part.bytes.data() + (part.repacked[which].row(row) - part.bytes.data()));  // to write there
    }
  });
  part.next += count;
}

void RepackedWeights::point_there() {
  if (unread_bytes_ == 0) return;
  WeightMoves there;
  const auto first = repacked_.begin() + static_cast<int64_t>(read_parts_);
  for (auto part = first; part != repacked_.end(); ++part) there.add(part->weights, part->repacked, part->stack);
  decoder_.rebind(there);
  // Nobody reads the file's pages any more; who does finds them in the file.
  for (auto part = first; part != repacked_.end(); ++part)
    for (const Weight& weight : part->weights) base::give_back(extent(weight));
  repacked_bytes_ += std::exchange(unread_bytes_, 0);
  read_parts_ = repacked_.size();
}

bool RepackedWeights::holds(std::span<const std::byte> bytes) const {
  return std::any_of(repacked_.begin(), repacked_.end(), [&](const Part& part) {
    return std::any_of(part.weights.begin(), part.weights.end(), [&](const Weight& weight) {
      return weight.data >= bytes.data() && weight.data < bytes.data() + bytes.size();
    });
  });
}

}  // namespace coterie::runtime
