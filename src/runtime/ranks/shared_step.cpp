#include "runtime/ranks/shared_step.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "ops/attention.h"

namespace coterie::runtime {

using comm::Awaited;
using comm::Kind;
using comm::Message;

/// The sequence from where a segment begins.
class SharedStep::State final : public layers::SequenceState {
 public:
  State(SharedStep& step, const Segment& segment)
      : step_(step),
        segment_(segment),
        sequence_(step.sequences_[static_cast<size_t>(segment.sequence)]),
        arrived_(step.state_floats_.size(), segment.begin == 0) {}

  int64_t length() const override { return sequence_.share.first + segment_.begin; }
  tensor::DType cache_dtype() const override { return sequence_.whole->cache_dtype(); }
  std::span<std::byte* const> blocks(int64_t layer) override { return sequence_.whole->blocks(layer); }
  std::span<float> recurrent(int64_t layer) override {
    const std::span<float> state = sequence_.whole->recurrent(layer);
    if (!state.empty() && !std::exchange(arrived_[static_cast<size_t>(layer)], 1))
      step_.wait_for_states(layer, *(&segment_ - 1), state);
    return state;
  }
  // The whole has room, and is moved on when the step is done.
  void make_room(int64_t) override {}
  void advance(int64_t) override {}
  void abandon() override {}

 private:
  SharedStep& step_;
  const Segment& segment_;
  const Sequence& sequence_;
  std::vector<char> arrived_;  // [L]
};

SharedStep::SharedStep(comm::Ranks& ranks, comm::Inbox& inbox, std::vector<Sequence> sequences,
                       std::vector<int64_t> block_bytes, std::vector<int64_t> state_floats, const RowCost& cost)
    : ranks_(ranks),
      inbox_(inbox),
      sequences_(std::move(sequences)),
      block_bytes_(std::move(block_bytes)),
      state_floats_(std::move(state_floats)) {
  state_floats_.resize(block_bytes_.size());
  std::vector<SequenceShare> shares;
  for (const Sequence& s : sequences_) shares.push_back(s.share);
  segments_ = divide(shares, ranks.size(), cost);
  std::vector<char> has_rows(static_cast<size_t>(ranks.size()));
  for (const Segment& segment : segments_) {
    has_rows[static_cast<size_t>(segment.rank)] = segment.rank != ranks.rank();
    if (segment.rank == ranks.rank()) own_.push_back(&segment);
  }
  for (const Segment* segment : own_) states_.push_back(std::make_unique<State>(*this, *segment));
  for (const int64_t bytes : block_bytes_)
    keys_missing_.push_back(bytes > 0 ? has_rows : std::vector<char>(has_rows.size()));
}

SharedStep::Blocks SharedStep::blocks_of(const Segment& segment) const {
  const int64_t first = sequences_[static_cast<size_t>(segment.sequence)].share.first;
  return {(first + segment.begin) / ops::kCacheBlock, (first + segment.end - 1) / ops::kCacheBlock + 1};
}

const Segment* SharedStep::next_of(const Segment& segment) const {
  const Segment* const next = &segment + 1;
  return next < segments_.data() + segments_.size() && next->sequence == segment.sequence ? next : nullptr;
}

bool SharedStep::is_last_of_sequence(const Segment& segment) const { return next_of(segment) == nullptr; }

void SharedStep::keys_written(int64_t layer, std::span<const layers::SequenceRows>) {
  const int64_t bytes = block_bytes_[static_cast<size_t>(layer)];
  base::require(bytes > 0, "ranks", "layer {} has written keys, and has no cache", layer);
  int64_t total = 0;
  for (const Segment* segment : own_) total += (blocks_of(*segment).end - blocks_of(*segment).first) * bytes;
  for (int to = 0; to < ranks_.size(); ++to) {
    if (to == ranks_.rank()) continue;
    comm::Writer message(Kind::keys, inbox_.step(), layer, static_cast<size_t>(total));
    auto* data = message.room<std::byte>(static_cast<size_t>(total));
    for (const Segment* segment : own_) {
      const std::span<std::byte* const> blocks =
          sequences_[static_cast<size_t>(segment->sequence)].whole->blocks(layer);
      const auto [first, end] = blocks_of(*segment);
      for (int64_t b = first; b < end; ++b, data += bytes)
        std::memcpy(data, blocks[static_cast<size_t>(b)], static_cast<size_t>(bytes));
    }
    ranks_.send(to, std::move(message));
  }
}

void SharedStep::wait_for_earlier_keys(int64_t layer) {
  // Segments are in the order of the ranks, so a lower rank has earlier rows of my first sequence, or none of mine.
  std::vector<char> earlier(static_cast<size_t>(ranks_.size()));
  for (const Segment& other : segments_)
    for (const Segment* mine : own_)
      if (other.rank < ranks_.rank() && other.sequence == mine->sequence) earlier[static_cast<size_t>(other.rank)] = 1;
  wait_for_keys(layer, earlier);
}

void SharedStep::wait_for_keys(int64_t layer, std::span<const char> from) {
  std::vector<char>& missing = keys_missing_[static_cast<size_t>(layer)];
  while (true) {
    std::vector<char> wanted(from.size());
    bool any = false;
    for (size_t r = 0; r < from.size(); ++r) any |= (wanted[r] = from[r] && missing[r]) != 0;
    if (!any) return;
    Message message = inbox_.take(wanted, {Kind::keys, inbox_.step(), layer}, [&](const Message& m) {
      return m.header().kind == Kind::keys && m.header().layer == layer && wanted[static_cast<size_t>(m.from())];
    });
    put_keys(message);
    missing[static_cast<size_t>(message.from())] = 0;
  }
}

void SharedStep::put_keys(Message& message) {
  const int64_t layer = message.header().layer, bytes = block_bytes_[static_cast<size_t>(layer)];
  for (const Segment& segment : segments_) {
    if (segment.rank != message.from()) continue;
    const auto [first, end] = blocks_of(segment);
    const std::byte* data = message.array<std::byte>(static_cast<size_t>((end - first) * bytes)).data();
    const std::span<std::byte* const> blocks = sequences_[static_cast<size_t>(segment.sequence)].whole->blocks(layer);
    for (int64_t b = first; b < end; ++b, data += bytes)
      std::memcpy(blocks[static_cast<size_t>(b)], data, static_cast<size_t>(bytes));
  }
}

void SharedStep::states_written(int64_t layer, std::span<const layers::SequenceRows>) {
  if (state_floats_[static_cast<size_t>(layer)] == 0) return;
  for (const Segment* segment : own_) {
    const Segment* const next = next_of(*segment);
    const int to = next ? next->rank : 0;
    if (to != ranks_.rank()) send_states(to, layer, *segment);
  }
}

void SharedStep::send_states(int to, int64_t layer, const Segment& segment) {
  const std::span<const float> state = sequences_[static_cast<size_t>(segment.sequence)].whole->recurrent(layer);
  comm::Writer message(Kind::states, inbox_.step(), layer, state.size_bytes());
  message.number(segment.sequence);
  message.array(state);
  ranks_.send(to, std::move(message));
}

// What a segment has left.
void SharedStep::wait_for_states(int64_t layer, const Segment& segment, std::span<float> into) {
  std::vector<char> from(static_cast<size_t>(ranks_.size()));
  from[static_cast<size_t>(segment.rank)] = 1;
  Message message = inbox_.take(from, {Kind::states, inbox_.step(), layer}, [&](const Message& m) {
    return m.header().kind == Kind::states && m.header().layer == layer && m.from() == segment.rank &&
           m.header().number == segment.sequence;
  });
  const std::span<const float> state = message.array<float>(into.size());
  std::copy(state.begin(), state.end(), into.begin());
}

void SharedStep::finish() {
  const std::vector<char> all(static_cast<size_t>(ranks_.size()), 1);
  for (size_t layer = 0; layer < keys_missing_.size(); ++layer) wait_for_keys(static_cast<int64_t>(layer), all);
  if (ranks_.rank() != 0) return;
  for (const Segment& segment : segments_) {
    if (segment.rank == 0 || next_of(segment)) continue;
    for (size_t layer = 0; layer < state_floats_.size(); ++layer)
      if (state_floats_[layer] > 0)
        wait_for_states(
            static_cast<int64_t>(layer), segment,
            sequences_[static_cast<size_t>(segment.sequence)].whole->recurrent(static_cast<int64_t>(layer)));
  }
}

}  // namespace coterie::runtime
