#include "runtime/ranks/layer_steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "ops/attention.h"
#include "runtime/ranks/observed_routes.h"
#include "runtime/weight_bytes.h"

namespace coterie::runtime {

using comm::Kind;
using layers::SequenceState;
using models::SequenceStep;
using tensor::ConstMatrix;
using tensor::Matrix;

namespace {

/// What rank 0 asks for of a sequence: blocks of positions [from, to), and its recurrent states.
struct Wanted {
  uint64_t lineage;
  int64_t from, to, states;
};

bool has_states(const models::ModelSpec& spec) {
  const std::vector<int64_t> floats = models::state_floats(spec);
  return std::any_of(floats.begin(), floats.end(), [](int64_t count) { return count > 0; });
}

int64_t end_block(int64_t positions) { return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock; }

}  // namespace

/// A sequence from row `offset` of the step on; or one without a lineage, under a number.
class LayerSteps::Part final : public SequenceState {
 public:
  Part(SequenceState& whole, int64_t offset, uint64_t lineage = 0)
      : whole_(whole), offset_(offset), lineage_(lineage) {}
  int64_t length() const override { return whole_.length() + offset_; }
  uint64_t lineage() const override { return lineage_; }
  tensor::DType cache_dtype() const override { return whole_.cache_dtype(); }
  std::span<std::byte* const> blocks(int64_t layer) override { return whole_.blocks(layer); }
  std::span<float> recurrent(int64_t layer) override { return whole_.recurrent(layer); }
  void make_room(int64_t) override {}
  void advance(int64_t) override {}
  void abandon() override {}

 private:
  SequenceState& whole_;
  int64_t offset_;
  uint64_t lineage_;
};

/// Neighbouring rows of a step.
struct LayerSteps::Group {
  int64_t begin = 0, end = 0;
  std::vector<std::unique_ptr<Part>> states;
  std::vector<SequenceStep> steps;
};

/// What the other ranks keep of a sequence of rank 0.
class LayerSteps::Kept final : public SequenceState::Elsewhere {
 public:
  /// `there`: positions that rank 0 has itself.
  Kept(LayerSteps& steps, uint64_t lineage, int64_t there)
      : steps_(steps), released_(steps.released_), lineage_(lineage), fetched_(there) {}
  ~Kept() override {
    if (const auto released = released_.lock()) released->push_back(lineage_);
  }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

  void stands_at(int64_t positions) { positions_ = positions, states_fetched_ = false; }

  void fetch(SequenceState& state) override {
    const bool same = state.lineage() == lineage_;
    int64_t to = std::min(positions_, state.length());
    if (!same) to = state.origin().lineage == lineage_ ? std::min(to, state.origin().positions) : 0;
    const bool states = same && state.length() == positions_ && !states_fetched_;
    if (to <= fetched_ && !states) return;
    base::require(!released_.expired(), "ranks", "a sequence is asked for when the ranks that keep it are gone");
    steps_.fetch(lineage_, fetched_, std::max(to, fetched_), states, state);
    fetched_ = std::max(to, fetched_);
    states_fetched_ |= states;
  }

 private:
  LayerSteps& steps_;
  std::weak_ptr<std::vector<uint64_t>> released_;
  uint64_t lineage_;
  int64_t fetched_, positions_ = 0;
  bool states_fetched_ = false;
};

LayerSteps::LayerSteps(comm::Ranks& ranks, comm::Inbox& inbox, const models::Decoder& decoder, bool apart)
    : ranks_(ranks),
      inbox_(inbox),
      decoder_(decoder),
      apart_(apart),
      spans_(cut_layers(decoder, ranks.size())),
      copies_(decoder.spec(), SequenceCopies::Lasts::until_released, {own().first, own().end}),
      released_(std::make_shared<std::vector<uint64_t>>()) {
  const WeightBytes bytes = weight_bytes(decoder);
  constexpr auto kExperts = static_cast<size_t>(models::Place::experts);
  expert_bytes_ = static_cast<double>(bytes.held[kExperts]);
  dense_bytes_ = static_cast<double>(bytes.all_touched() - bytes.touched[kExperts]);
  if (expert_bytes_ > 0) used_ = static_cast<double>(bytes.touched[kExperts]) / expert_bytes_;
}

LayerSteps::~LayerSteps() = default;

int LayerSteps::neighbour(int direction) const {
  for (int r = ranks_.rank() + direction; r > 0 && r < ranks_.size(); r += direction)
    if (!spans_[static_cast<size_t>(r)].empty()) return r;
  if (direction > 0 || ranks_.rank() > 0) return 0;
  for (int r = ranks_.size() - 1; r > 0; --r)  // who is before rank 0 is the last
    if (!spans_[static_cast<size_t>(r)].empty()) return r;
  return 0;
}

// G groups take the time of G + R - 1: the first goes through all ranks, and one is ready each time after it. A group's
// time is what it reads: all dense weights, the experts its rows need; and its arithmetic, which reading hides up to
// some 16 rows.
std::vector<int64_t> LayerSteps::ends_of_groups(int64_t rows) const {
  const int64_t chain = 1 + std::count_if(spans_.begin() + 1, spans_.end(), [](LayerSpan s) { return !s.empty(); });
  constexpr double kHidden = 16;
  const auto seconds = [&](int64_t groups) {
    const double each = std::ceil(static_cast<double>(rows) / static_cast<double>(groups));
    const double read = dense_bytes_ + expert_bytes_ * (1 - std::pow(1 - used_, each));
    const double work = each * (dense_bytes_ + expert_bytes_ * used_) / kHidden;
    return static_cast<double>(groups + chain - 1) * (read + work);
  };
  int64_t best = 1;
  for (int64_t groups = 2; apart_ && chain > 1 && groups <= std::min(rows, 4 * chain); ++groups)
    if (seconds(groups) < seconds(best)) best = groups;
  std::vector<int64_t> ends;
  for (int64_t g = 1; g <= best; ++g) ends.push_back(rows * g / best);
  return ends;
}

std::vector<LayerSteps::Group> LayerSteps::cut(std::span<const SequenceStep> steps,
                                               std::span<const int64_t> ends) const {
  std::vector<Group> groups;
  for (int64_t begin = 0; const int64_t end : ends) {
    Group& group = groups.emplace_back();
    group.begin = begin, group.end = end;
    int64_t first = 0;  // row of the sequence
    for (const SequenceStep& step : steps) {
      const int64_t rows = std::ssize(step.ids);
      const int64_t from = std::max(begin - first, int64_t{0}), to = std::min(end - first, rows);
      if (from < to) {
        group.states.push_back(std::make_unique<Part>(*step.state, from));
        SequenceStep part = step;
        part.state = group.states.back().get();
        part.ids = step.ids.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
        part.length = std::max(step.length, step.state->length() + rows);
        part.logits = SequenceStep::Logits::none, part.normed = {}, part.leaves = nullptr;
        group.steps.push_back(part);
      }
      first += rows;
    }
    begin = end;
  }
  return groups;
}

void LayerSteps::send_rows(int to, int64_t group, ConstMatrix x) {
  comm::Writer message(Kind::stream, inbox_.step(), -1, static_cast<size_t>(x.rows * x.cols) * sizeof(float));
  message.number(group);
  auto* values = message.room<float>(static_cast<size_t>(x.rows * x.cols));
  for (int64_t r = 0; r < x.rows; ++r) values = std::copy_n(x.row(r), x.cols, values);
  ranks_.send(to, std::move(message));
}

comm::Message LayerSteps::take(int from, Kind kind, int64_t number) {
  std::vector<char> waiting(static_cast<size_t>(ranks_.size()));
  waiting[static_cast<size_t>(from)] = 1;
  return inbox_.take(waiting, {kind, inbox_.step(), -1}, [&](const comm::Message& m) {
    return m.header().kind == kind && m.from() == from && m.header().number == static_cast<uint32_t>(number);
  });
}

void LayerSteps::receive_rows(int from, int64_t group, Matrix x) {
  comm::Message message = take(from, Kind::stream, group);
  const float* values = message.array<float>(static_cast<size_t>(x.rows * x.cols)).data();
  for (int64_t r = 0; r < x.rows; ++r, values += x.cols) std::copy_n(values, x.cols, x.row(r));
}

Matrix LayerSteps::forward(ops::Context& context, std::span<const SequenceStep> given,
                           const models::PassOptions& pass) {
  const models::ModelSpec& spec = decoder_.spec();
  std::vector<SequenceStep> steps;
  std::vector<std::unique_ptr<Part>> named;
  std::vector<SequenceState*> states;
  int64_t rows = 0;
  for (const SequenceStep& step : given) {
    if (step.ids.empty()) continue;
    if (step.routers)
      base::fail(base::ErrorKind::unsupported, "split layers",
                 "what a request changes of routers cannot be changed where other ranks have some of the layers");
    for (int64_t layer = 0; layer < std::ssize(spec.blocks); ++layer)
      if (!step.state->recurrent_after(layer, 0).empty())
        base::fail(base::ErrorKind::unsupported, "split layers",
                   "drafted tokens of a model with recurrent states cannot be taken back on other ranks");
    steps.push_back(step);
    states.push_back(step.state);
    steps.back().leaves = nullptr;  // all ranks would have to leave it between the same layers
    if (step.state->lineage() == 0) {
      named.push_back(std::make_unique<Part>(*step.state, 0, ++unnamed_));
      steps.back().state = named.back().get();
    }
    rows += std::ssize(step.ids);
  }
  if (steps.empty()) return decoder_.forward(context, given, pass);

  std::vector<const SequenceStep*> all;
  for (const SequenceStep& step : steps) all.push_back(&step);
  copies_.begin(all);
  // Who looks on sees a step as a whole.
  const std::vector<int64_t> ends = pass.observer ? std::vector<int64_t>{rows} : ends_of_groups(rows);
  groups_ = std::ssize(ends);
  const std::vector<uint64_t> released = std::exchange(*released_, {});
  for (const uint64_t lineage : released) copies_.release(lineage), kept_.erase(lineage);
  for (int to = 1; to < ranks_.size(); ++to) {
    const LayerSpan span = spans_[static_cast<size_t>(to)];
    if (span.empty()) continue;
    comm::Writer message(Kind::step, inbox_.step(), -1);
    message.value(static_cast<int64_t>(std::ssize(released)));
    message.array(std::span<const uint64_t>(released));
    message.value(static_cast<int64_t>(pass.observer != nullptr));
    message.value(groups_);
    message.array(std::span<const int64_t>(ends));
    copies_.write(message, [&](size_t i) { return !copies_.exact(i); }, {span.first, span.end});
    ranks_.send(to, std::move(message));
  }

  const Matrix x = context.arena.matrix(rows, spec.width);
  const int next = neighbour(1), last = neighbour(-1);
  for (int64_t g = 0; const Group& group : cut(steps, ends)) {
    const Matrix part = x.row_range(group.begin, group.end);
    const layers::LayerRange range{own().first, own().end, {}, part};
    decoder_.forward(context, group.steps, {.observer = pass.observer, .layers = &range});
    if (next != 0) send_rows(next, g, part);
    ++g;
  }
  for (int64_t g = 0, begin = 0; next != 0 && g < groups_; begin = ends[static_cast<size_t>(g++)])
    receive_rows(last, g, x.row_range(begin, ends[static_cast<size_t>(g)]));
  if (pass.observer) {
    for (int r = 1; r < ranks_.size(); ++r) {
      if (spans_[static_cast<size_t>(r)].empty()) continue;
      comm::Message routes = take(r, Kind::routes);
      replay_routes(routes, steps, *pass.observer);
    }
    if (next != 0) pass.observer->block(std::ssize(spec.blocks) - 1, x);
  }
  const layers::LayerRange head{std::ssize(spec.blocks), INT64_MAX, x, {}};
  const Matrix result =
      decoder_.forward(context, steps, {.observer = pass.observer, .layers = &head, .hidden = pass.hidden});
  for (size_t i = 0; i < steps.size(); ++i) {
    // Nobody would ask for what a sequence without a lineage has elsewhere.
    const SequenceStep& step = steps[i];
    const uint64_t lineage = step.state->lineage();
    const int64_t length = step.state->length(), end = length + std::ssize(step.ids);
    if (states[i]->lineage() == 0) {
      fetch(lineage, length, end, true, *states[i]);
      released_->push_back(lineage);
      continue;
    }
    std::shared_ptr<Kept> kept = kept_[lineage].lock();
    if (!kept) kept = std::make_shared<Kept>(*this, lineage, copies_.positions_there(i) == 0 ? length : 0);
    kept->stands_at(end);
    kept_[lineage] = kept;
    states[i]->keep_elsewhere(std::move(kept));
  }
  copies_.keep(inbox_.step(), true);
  return result;
}

void LayerSteps::serve(ops::Context& context, comm::Message& message) {
  const auto gone = message.value<int64_t>();
  for (const uint64_t lineage : message.array<uint64_t>(static_cast<size_t>(gone))) copies_.release_read(lineage);
  const bool observed = message.value<int64_t>() != 0;
  const auto count = message.value<int64_t>();
  const std::span<const int64_t> read_ends = message.array<int64_t>(static_cast<size_t>(count));
  const std::vector<int64_t> ends(read_ends.begin(), read_ends.end());
  const std::vector<SequenceStep> steps = copies_.read(message);
  try {
    const int next = neighbour(1), before = neighbour(-1);
    RoutesWriter routes(inbox_.step());
    for (int64_t g = 0; const Group& group : cut(steps, ends)) {
      const tensor::ArenaScope scratch(context.arena);
      const Matrix x = context.arena.matrix(group.end - group.begin, decoder_.spec().width);
      const Matrix left = context.arena.matrix(x.rows, x.cols);
      receive_rows(before, g, x);
      const layers::LayerRange range{own().first, own().end, x, left};
      decoder_.forward(context, group.steps, {.observer = observed ? &routes : nullptr, .layers = &range});
      send_rows(next, g++, left);
    }
    if (observed) ranks_.send(0, routes.take());
  } catch (...) {
    copies_.put_back();
    throw;
  }
  copies_.keep_read(inbox_.step());
}

void LayerSteps::fetch(uint64_t lineage, int64_t from, int64_t to, bool states, SequenceState& into) {
  const models::ModelSpec& spec = decoder_.spec();
  const std::vector<int64_t> bytes = models::cache_block_bytes(spec, into.cache_dtype());
  const std::vector<int64_t> floats = models::state_floats(spec);
  const bool wants_states = states && has_states(spec);
  for (int r = 1; r < ranks_.size(); ++r) {
    if (spans_[static_cast<size_t>(r)].empty()) continue;
    comm::Writer message(Kind::cache, inbox_.step(), -1);
    message.value(Wanted{lineage, from, to, wants_states});
    ranks_.send(r, std::move(message));
  }
  for (int r = 1; r < ranks_.size(); ++r) {
    const LayerSpan span = spans_[static_cast<size_t>(r)];
    if (span.empty()) continue;
    comm::Message message = take(r, Kind::cache);
    for (int64_t layer = span.first; layer < span.end; ++layer) {
      const auto at = static_cast<size_t>(layer);
      if (bytes[at] > 0) {
        const std::span<std::byte* const> blocks = into.blocks(layer);
        for (int64_t b = from / ops::kCacheBlock; from < to && b < end_block(to); ++b)
          std::memcpy(blocks[static_cast<size_t>(b)], message.array<std::byte>(static_cast<size_t>(bytes[at])).data(),
                      static_cast<size_t>(bytes[at]));
      }
      if (!wants_states || at >= floats.size() || floats[at] == 0) continue;
      const std::span<float> state = into.recurrent(layer);
      std::copy_n(message.array<float>(state.size()).begin(), state.size(), state.begin());
    }
  }
}

void LayerSteps::answer(comm::Message& message) {
  const auto wanted = message.value<Wanted>();
  SequenceState& held = copies_.held(wanted.lineage);
  const std::vector<int64_t> bytes = models::cache_block_bytes(decoder_.spec(), held.cache_dtype());
  comm::Writer reply(Kind::cache, inbox_.step(), -1);
  for (int64_t layer = own().first; layer < own().end; ++layer) {
    const auto each = static_cast<size_t>(bytes[static_cast<size_t>(layer)]);
    if (each > 0) {
      const std::span<std::byte* const> blocks = held.blocks(layer);
      for (int64_t b = wanted.from / ops::kCacheBlock; wanted.from < wanted.to && b < end_block(wanted.to); ++b)
        reply.array(std::span<const std::byte>(blocks[static_cast<size_t>(b)], each));
    }
    if (wanted.states != 0) reply.array(std::span<const float>(held.recurrent(layer)));
  }
  ranks_.send(0, std::move(reply));
}

}  // namespace coterie::runtime
