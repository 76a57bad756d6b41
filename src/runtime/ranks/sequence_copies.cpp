#include "runtime/ranks/sequence_copies.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "layers/moe/router_hook.h"
#include "ops/attention.h"

namespace coterie::runtime {

using layers::ResidentState;
using models::SequenceStep;

namespace {

/// The first values of a message, and those of each of its sequences.
struct Head {
  int64_t sequences, cache_dtype;
};
struct SequenceHead {
  uint64_t lineage, random_key;
  uint64_t from;           // the lineage whose copy has the first positions
  int64_t known;           // so many of them
  int64_t first, rows;     // positions before, rows of the step
  int64_t length, logits;  // SequenceStep's
  int64_t states, hooked;  // recurrent states come with it; a hook on rank 0 decides for its routers
};

constexpr uint64_t kIdleSteps = 64;  // a copy is kept without being used

int64_t blocks_of(int64_t positions) { return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock; }

/// Blocks of a sequence of `length` positions that who has `known` of them lacks.
std::pair<int64_t, int64_t> lacking(int64_t known, int64_t length) {
  if (known == length) return {0, 0};
  return {known / ops::kCacheBlock, blocks_of(length)};
}

template <typename Map>
void drop_old(Map& map, uint64_t number) {
  std::erase_if(map, [&](const auto& each) { return each.second.step + kIdleSteps < number; });
}

const layers::RouterHook kNoHook;

}  // namespace

/// What rank 0's sequence is on another rank.
class SequenceCopies::Copy final : public layers::SequenceState {
 public:
  Copy(std::vector<int64_t> block_bytes, tensor::DType dtype, const std::vector<int64_t>& state_floats)
      : held_(std::move(block_bytes), dtype, state_floats) {}

  int64_t length() const override { return length_; }
  tensor::DType cache_dtype() const override { return held_.cache_dtype(); }
  std::span<std::byte* const> blocks(int64_t layer) override { return held_.blocks(layer); }
  std::span<float> recurrent(int64_t layer) override { return held_.recurrent(layer); }
  void make_room(int64_t) override {}
  void advance(int64_t) override {}  // rank 0 says where it stands
  void abandon() override {}

  /// It stands at `length`, and has room for `rows` more.
  void stand_at(int64_t length, int64_t rows) {
    length_ = length;
    held_.reserve(length + rows);
  }

 private:
  ResidentState held_;  // its own length stays 0
  int64_t length_ = 0;
};

SequenceCopies::SequenceCopies(const models::ModelSpec& spec, Lasts lasts, KeptLayers layers)
    : spec_(spec), lasts_(lasts), layers_(layers) {}
SequenceCopies::~SequenceCopies() = default;

SequenceCopies::Shared SequenceCopies::shared_with_others(const layers::SequenceState& state) const {
  if (state.lineage() == 0) return {};
  if (const auto same = known_.find(state.lineage()); same != known_.end())
    return {same->first, std::min(same->second.positions, state.length())};
  const layers::SequenceState::Origin origin = state.origin();
  const auto before = known_.find(origin.lineage);
  if (before == known_.end()) return {};
  const int64_t positions = std::min({before->second.positions, origin.positions, state.length()});
  return positions > 0 ? Shared{before->first, positions} : Shared{};
}

void SequenceCopies::begin(std::span<const SequenceStep* const> steps) {
  steps_.assign(steps.begin(), steps.end());
  shared_.clear();
  for (const SequenceStep* step : steps) shared_.push_back(shared_with_others(*step->state));
}

bool SequenceCopies::exact(size_t sequence) const {
  const layers::SequenceState& state = *steps_[sequence]->state;
  const auto known = known_.find(state.lineage());
  return known != known_.end() && known->second.exact && known->second.positions == state.length();
}

std::vector<int64_t> SequenceCopies::block_bytes(tensor::DType dtype, KeptLayers layers) const {
  std::vector<int64_t> bytes = models::cache_block_bytes(spec_, dtype);
  for (int64_t layer = 0; layer < std::ssize(bytes); ++layer)
    if (layer < layers.first || layer >= layers.end) bytes[static_cast<size_t>(layer)] = 0;
  return bytes;
}

std::vector<int64_t> SequenceCopies::state_floats(KeptLayers layers) const {
  std::vector<int64_t> floats = models::state_floats(spec_);
  for (int64_t layer = 0; layer < std::ssize(floats); ++layer)
    if (layer < layers.first || layer >= layers.end) floats[static_cast<size_t>(layer)] = 0;
  return floats;
}

void SequenceCopies::forget() {
  if (lasts_ == Lasts::a_while) return known_.clear();
  for (auto& [lineage, known] : known_) known.exact = false;
}

void SequenceCopies::write(comm::Writer& message, base::FunctionRef<bool(size_t)> states, KeptLayers layers) const {
  const tensor::DType dtype = steps_.front()->state->cache_dtype();
  const std::vector<int64_t> bytes = block_bytes(dtype, layers), floats = state_floats(layers);
  message.value(Head{std::ssize(steps_), static_cast<int64_t>(dtype)});
  for (size_t i = 0; i < steps_.size(); ++i) {
    const SequenceStep& step = *steps_[i];
    const int64_t length = step.state->length(), rows = std::ssize(step.ids);
    message.value(SequenceHead{.lineage = step.state->lineage(),
                               .random_key = step.random_key,
                               .from = shared_[i].from,
                               .known = shared_[i].positions,
                               .first = length,
                               .rows = rows,
                               .length = std::max(step.length, length + rows),
                               .logits = static_cast<int64_t>(step.logits),
                               .states = states(i),
                               .hooked = step.routers != nullptr});
  }
  for (size_t i = 0; i < steps_.size(); ++i) {
    layers::SequenceState& state = *steps_[i]->state;
    message.array(steps_[i]->ids);
    for (size_t layer = 0; layer < bytes.size(); ++layer) {
      const auto at = static_cast<int64_t>(layer);
      if (bytes[layer] > 0) {
        const std::span<std::byte* const> blocks = state.blocks(at);
        const auto [first, end] = lacking(shared_[i].positions, state.length());
        for (int64_t b = first; b < end; ++b)
          message.array(std::span<const std::byte>(blocks[static_cast<size_t>(b)], static_cast<size_t>(bytes[layer])));
      }
      if (states(i) && layer < floats.size() && floats[layer] > 0)
        message.array(std::span<const float>(state.recurrent(at)));
    }
  }
}

void SequenceCopies::keep(uint64_t number, bool exactly) {
  for (size_t i = 0; i < steps_.size(); ++i)
    if (shared_[i].from != steps_[i]->state->lineage()) known_.erase(shared_[i].from);
  for (const SequenceStep* step : steps_)
    if (const uint64_t lineage = step->state->lineage(); lineage != 0)
      known_[lineage] = {step->state->length() + std::ssize(step->ids), exactly, number};
  if (lasts_ == Lasts::a_while) drop_old(known_, number);
}

std::vector<SequenceStep> SequenceCopies::read(comm::Message& message) {
  const auto head = message.value<Head>();
  const std::span<const SequenceHead> heads = message.array<SequenceHead>(static_cast<size_t>(head.sequences));
  const auto dtype = static_cast<tensor::DType>(head.cache_dtype);
  const std::vector<int64_t> bytes = block_bytes(dtype, layers_), floats = state_floats(layers_);
  read_.clear(), read_.resize(heads.size()), from_.assign(heads.size(), 0), lineages_.clear(), ids_.clear();
  for (const SequenceHead& s : heads) {
    base::require(s.known == 0 || held_.contains(s.from), "ranks",
                  "{} positions of a sequence are to be here that this rank does not know", s.known);
    lineages_.push_back(s.lineage);
  }
  // Until the step is done nothing of the others is to be relied on.
  for (size_t i = 0; i < heads.size(); ++i) {
    if (heads[i].known > 0) {
      read_[i] = held_.extract(heads[i].from).mapped().copy;
      from_[i] = heads[i].from;
    }
    if (!read_[i]) read_[i] = std::make_shared<Copy>(bytes, dtype, floats);
    held_.erase(heads[i].lineage);
    read_[i]->stand_at(heads[i].first, heads[i].rows);
  }
  std::vector<SequenceStep> steps;
  for (size_t i = 0; i < read_.size(); ++i) {
    const SequenceHead& s = heads[i];
    Copy& copy = *read_[i];
    const std::span<const int32_t> ids = message.array<int32_t>(static_cast<size_t>(s.rows));
    ids_.emplace_back(ids.begin(), ids.end());
    for (size_t layer = 0; layer < bytes.size(); ++layer) {
      const auto at = static_cast<int64_t>(layer);
      if (bytes[layer] > 0) {
        const std::span<std::byte* const> blocks = copy.blocks(at);
        const auto [first, end] = lacking(s.known, s.first);
        for (int64_t b = first; b < end; ++b)
          std::memcpy(blocks[static_cast<size_t>(b)],
                      message.array<std::byte>(static_cast<size_t>(bytes[layer])).data(),
                      static_cast<size_t>(bytes[layer]));
      }
      if (!s.states || layer >= floats.size() || floats[layer] == 0) continue;
      const std::span<float> state = copy.recurrent(at);
      std::copy_n(message.array<float>(state.size()).begin(), state.size(), state.begin());
    }
    steps.push_back({.ids = ids_.back(),
                     .state = &copy,
                     .logits = static_cast<SequenceStep::Logits>(s.logits),
                     .random_key = s.random_key,
                     .length = s.length,
                     .routers = s.hooked ? &kNoHook : nullptr});
  }
  return steps;
}

void SequenceCopies::keep_read(uint64_t number) {
  for (size_t i = 0; i < read_.size(); ++i)
    if (lineages_[i] != 0) held_[lineages_[i]] = {std::move(read_[i]), number};
  read_.clear();
  if (lasts_ == Lasts::a_while) drop_old(held_, number);
}

void SequenceCopies::put_back() {
  for (size_t i = 0; i < read_.size(); ++i)
    if (from_[i] != 0) held_[from_[i]] = {std::move(read_[i]), 0};
  read_.clear();
}

layers::SequenceState& SequenceCopies::held(uint64_t lineage) {
  const auto found = held_.find(lineage);
  base::require(found != held_.end(), "ranks", "a sequence is asked for that is not here");
  return *found->second.copy;
}

}  // namespace coterie::runtime
