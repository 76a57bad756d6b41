#include "runtime/ranks/model_ranks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "layers/moe/routers/kind.h"
#include "ops/attention.h"

namespace coterie::runtime {

using comm::Kind;
using models::SequenceStep;
using tensor::Matrix;

namespace {

/// Whether no row of a step needs more of the others than keys, values and states.
bool rows_are_apart(const models::ModelSpec& spec) {
  return std::all_of(spec.blocks.begin(), spec.blocks.end(), [](const models::BlockSpec& block) {
    // The keys of an indexer are not sent: it writes them after the others have gone.
    if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer); latent && latent->indexer)
      return false;
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    return !moe || (layers::kind_of(moe->router.selection).causal && !moe->router.always.capacity);
  });
}

/// The first values of a share of a step, and those of each of its sequences.
struct StepHead {
  int64_t sequences, hidden, cache_dtype;
};
struct SequenceHead {
  uint64_t lineage, random_key;
  int64_t first, rows, held;  // positions before, rows of the step, positions that the rank has already
  int64_t length, logits;
};

std::vector<const SequenceStep*> with_rows(std::span<const SequenceStep> steps) {
  std::vector<const SequenceStep*> result;
  for (const SequenceStep& step : steps)
    if (!step.ids.empty()) result.push_back(&step);
  return result;
}

std::vector<SharedStep::Sequence> sequences_of(std::span<const SequenceStep* const> steps) {
  std::vector<SharedStep::Sequence> result;
  for (const SequenceStep* step : steps)
    result.push_back({step->state, {step->state->length(), std::ssize(step->ids)}});
  return result;
}

/// A rank's part of the steps: rows of its segments. `steps[s].ids` are all of a sequence.
std::vector<SequenceStep> own_part(SharedStep& shared, std::span<const SequenceStep* const> steps) {
  std::vector<SequenceStep> own;
  for (size_t i = 0; i < shared.own().size(); ++i) {
    const Segment& segment = *shared.own()[i];
    const SequenceStep& whole = *steps[static_cast<size_t>(segment.sequence)];
    SequenceStep part = whole;
    part.state = &shared.state_of(i), part.leaves = nullptr;
    part.ids = whole.ids.subspan(static_cast<size_t>(segment.begin), static_cast<size_t>(segment.end - segment.begin));
    part.length = std::max(whole.length, whole.state->length() + std::ssize(whole.ids));
    if (whole.logits == SequenceStep::Logits::last && !shared.is_last_of_sequence(segment))
      part.logits = SequenceStep::Logits::none;
    own.push_back(part);
  }
  return own;
}

int64_t blocks_of(int64_t positions) { return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock; }

}  // namespace

ModelRanks::ModelRanks(comm::Ranks& ranks, const models::Decoder& decoder)
    : ranks_(ranks), decoder_(decoder), inbox_(ranks), rows_are_apart_(rows_are_apart(decoder.spec())) {}

std::vector<int64_t> ModelRanks::block_bytes(tensor::DType dtype) const {
  return models::cache_block_bytes(decoder_.spec(), dtype);
}

int64_t ModelRanks::experts_of(int64_t layer) const {
  const auto& blocks = decoder_.spec().blocks;
  const auto* moe = layer >= 0 && layer < std::ssize(blocks)
                        ? std::get_if<layers::MoeSpec>(&blocks[static_cast<size_t>(layer)].ffn)
                        : nullptr;
  base::require(moe != nullptr, "ranks", "layer {} has no routed experts", layer);
  return moe->experts_with_weights();
}

ComputeExperts ModelRanks::compute(ops::Context& context) const {
  return
      [this, &context](int64_t layer, tensor::ConstMatrix x, const ops::RoutingPlan& plan, std::span<const int32_t> ids,
                       Matrix out) { decoder_.expert_outputs(context, layer, x, plan, ids, out); };
}

bool ModelRanks::divides(std::span<const SequenceStep> steps, const models::PassOptions& pass) const {
  if (!rows_are_apart_ || pass.observer || pass.training) return false;
  std::vector<SequenceShare> shares;
  for (const SequenceStep& step : steps) {
    if (step.routers || !step.model_weights.empty()) return false;
    // Who leaves is asked once: all ranks would have to know of it.
    if (step.leaves && (*step.leaves)(0)) return false;
    // Rows that may be taken back need states row by row, and a draft head the rows of all.
    if (step.normed.rows > 0) return false;
    for (int64_t layer = 0; layer < std::ssize(decoder_.spec().blocks); ++layer)
      if (!step.state->recurrent_after(layer, 0).empty()) return false;
    shares.push_back({step.state->length(), std::ssize(step.ids)});
  }
  return worth_dividing(shares, ranks_.size());
}

Matrix ModelRanks::forward(ops::Context& context, std::span<const SequenceStep> steps,
                           const models::PassOptions& given) {
  inbox_.begin(inbox_.step() + 1);
  try {
    if (divides(steps, given)) return forward_divided(context, steps, given);
    ExpertRanks experts(ranks_, inbox_, false, compute(context));
    models::PassOptions pass = given;
    pass.experts = &experts;
    return decoder_.forward(context, steps, pass);
  } catch (...) {
    held_positions_.clear();
    throw;
  }
}

Matrix ModelRanks::forward_divided(ops::Context& context, std::span<const SequenceStep> given,
                                   const models::PassOptions& options) {
  const std::vector<const SequenceStep*> steps = with_rows(given);
  SharedStep shared(ranks_, inbox_, sequences_of(steps), block_bytes(steps.front()->state->cache_dtype()),
                    models::state_floats(decoder_.spec()));
  for (int to = 1; to < ranks_.size(); ++to) send_share(to, steps, shared, options.hidden);

  const std::vector<SequenceStep> own = own_part(shared, steps);
  ExpertRanks experts(ranks_, inbox_, true, compute(context));
  Matrix part;
  std::vector<comm::Message> parts(static_cast<size_t>(ranks_.size()));
  try {
    part = decoder_.forward(context, own, {.experts = &experts, .share = &shared, .hidden = options.hidden});
    shared.finish();
    std::vector<char> missing(parts.size(), 1);
    missing.front() = 0;
    while (std::count(missing.begin(), missing.end(), 1) > 0) {
      comm::Message message = inbox_.take(missing, {Kind::logits, inbox_.step(), -1},
                                          [](const comm::Message& m) { return m.header().kind == Kind::logits; });
      const auto from = static_cast<size_t>(message.from());
      missing[from] = 0;
      parts[from] = std::move(message);
    }
  } catch (const base::Error& error) {
    fail(error);
    throw;
  } catch (const std::exception& error) {
    fail({base::ErrorKind::internal, "", error.what()});
    throw;
  }

  // The rows of a rank are those of its segments in order, and segments are in the order of the steps.
  const int64_t columns = options.hidden ? decoder_.spec().width : decoder_.spec().vocabulary;
  std::vector<const float*> next(parts.size());
  int64_t rows = part.rows;
  next.front() = part.data;
  std::vector<int64_t> left(parts.size());
  left.front() = part.rows;
  for (size_t r = 1; r < parts.size(); ++r) {
    left[r] = parts[r].value<int64_t>();
    next[r] = parts[r].array<float>(static_cast<size_t>(left[r] * columns)).data();
    rows += left[r];
  }
  const Matrix result = context.arena.matrix(rows, columns);
  int64_t at = 0;
  for (size_t r = 0; r < parts.size(); ++r)
    for (; left[r] > 0; --left[r], next[r] += columns) std::copy_n(next[r], columns, result.row(at++));

  held_positions_.clear();
  for (const SequenceStep* step : steps)
    if (step->state->lineage() != 0)
      held_positions_[step->state->lineage()] = step->state->length() + std::ssize(step->ids);
  ++divided_;
  return result;
}

void ModelRanks::fail(const base::Error& error) {
  // Who failed elsewhere has told everybody.
  if (ranks_.lost() || dynamic_cast<const comm::RankFailure*>(&error)) return;
  for (int to = 0; to < ranks_.size(); ++to)
    if (to != ranks_.rank()) ranks_.send_failure(to, error, inbox_.step());
}

void ModelRanks::send_share(int to, std::span<const SequenceStep* const> steps, const SharedStep& shared, bool hidden) {
  const tensor::DType dtype = steps.front()->state->cache_dtype();
  const std::vector<int64_t> bytes = block_bytes(dtype);
  comm::Writer message(Kind::step, inbox_.step(), -1);
  message.value(StepHead{std::ssize(steps), hidden, static_cast<int64_t>(dtype)});
  std::vector<int64_t> known;
  for (const SequenceStep* step : steps) {
    const int64_t length = step->state->length(), end = length + std::ssize(step->ids);
    const auto held = held_positions_.find(step->state->lineage());
    known.push_back(held == held_positions_.end() ? 0 : std::min(held->second, length));
    message.value(SequenceHead{step->state->lineage(), step->random_key, length, std::ssize(step->ids), known.back(),
                               std::max(step->length, end), static_cast<int64_t>(step->logits)});
  }
  for (const SequenceStep* step : steps) message.array(step->ids);
  for (size_t i = 0; i < steps.size(); ++i)
    for (size_t layer = 0; layer < bytes.size(); ++layer) {
      if (bytes[layer] == 0) continue;
      const std::span<std::byte* const> blocks = steps[i]->state->blocks(static_cast<int64_t>(layer));
      for (int64_t b = known[i] / ops::kCacheBlock; b < blocks_of(steps[i]->state->length()); ++b)
        message.array(std::span<const std::byte>(blocks[static_cast<size_t>(b)], static_cast<size_t>(bytes[layer])));
    }
  for (const Segment& segment : shared.segments()) {
    if (segment.rank != to || segment.begin > 0) continue;
    layers::SequenceState& state = *steps[static_cast<size_t>(segment.sequence)]->state;
    for (size_t layer = 0; layer < bytes.size(); ++layer)
      message.array(std::span<const float>(state.recurrent(static_cast<int64_t>(layer))));
  }
  ranks_.send(to, std::move(message));
}

void ModelRanks::serve_share(ops::Context& context, comm::Message& message) {
  const auto head = message.value<StepHead>();
  const std::span<const SequenceHead> heads = message.array<SequenceHead>(static_cast<size_t>(head.sequences));
  const auto dtype = static_cast<tensor::DType>(head.cache_dtype);
  const std::vector<int64_t> bytes = block_bytes(dtype);
  const std::vector<int64_t> floats = models::state_floats(decoder_.spec());

  // Those of the last divided step that go on are kept, the others forgotten.
  std::map<uint64_t, std::unique_ptr<layers::ResidentState>> before = std::exchange(held_, {});
  std::vector<std::unique_ptr<layers::ResidentState>> states;
  std::vector<SequenceStep> whole;
  std::vector<SharedStep::Sequence> sequences;
  for (const SequenceHead& s : heads) {
    auto& kept = before[s.lineage];
    base::require(s.held == 0 || kept, "ranks", "rank {} is to have {} positions of a sequence that it does not know",
                  ranks_.rank(), s.held);
    states.push_back(kept && s.held > 0 ? std::move(kept)
                                        : std::make_unique<layers::ResidentState>(bytes, dtype, floats));
    states.back()->reserve(s.first + s.rows);
    sequences.push_back({states.back().get(), {s.first, s.rows}});
    whole.push_back({.ids = message.array<int32_t>(static_cast<size_t>(s.rows)),
                     .state = states.back().get(),
                     .logits = static_cast<SequenceStep::Logits>(s.logits),
                     .random_key = s.random_key,
                     .length = s.length});
  }
  for (size_t i = 0; i < states.size(); ++i)
    for (size_t layer = 0; layer < bytes.size(); ++layer) {
      if (bytes[layer] == 0) continue;
      const std::span<std::byte* const> blocks = states[i]->blocks(static_cast<int64_t>(layer));
      for (int64_t b = heads[i].held / ops::kCacheBlock; b < blocks_of(heads[i].first); ++b)
        std::memcpy(blocks[static_cast<size_t>(b)], message.array<std::byte>(static_cast<size_t>(bytes[layer])).data(),
                    static_cast<size_t>(bytes[layer]));
    }
  SharedStep shared(ranks_, inbox_, sequences, bytes, floats);
  for (const Segment* segment : shared.own()) {
    if (segment->begin > 0) continue;
    for (size_t layer = 0; layer < bytes.size(); ++layer) {
      const std::span<float> state =
          sequences[static_cast<size_t>(segment->sequence)].whole->recurrent(static_cast<int64_t>(layer));
      std::copy_n(message.array<float>(state.size()).begin(), state.size(), state.begin());
    }
  }

  std::vector<const SequenceStep*> steps;
  for (const SequenceStep& step : whole) steps.push_back(&step);
  const std::vector<SequenceStep> own = own_part(shared, steps);
  ExpertRanks experts(ranks_, inbox_, true, compute(context));
  const Matrix part =
      decoder_.forward(context, own, {.experts = &experts, .share = &shared, .hidden = head.hidden != 0});
  comm::Writer logits(Kind::logits, inbox_.step(), -1, static_cast<size_t>(part.rows * part.cols) * sizeof(float) + 8);
  logits.value(part.rows);
  auto* values = logits.room<float>(static_cast<size_t>(part.rows * part.cols));
  for (int64_t r = 0; r < part.rows; ++r) std::copy_n(part.row(r), part.cols, values + r * part.cols);
  ranks_.send(0, std::move(logits));
  shared.finish();
  for (size_t i = 0; i < states.size(); ++i)
    if (heads[i].lineage != 0) held_[heads[i].lineage] = std::move(states[i]);
}

void ModelRanks::serve(ops::Context& context, const std::function<void(double seconds)>& done) {
  while (true) {
    comm::Message message = inbox_.next();
    const comm::Header& header = message.header();
    if (header.kind == Kind::stop) return;
    const base::Stopwatch clock;
    inbox_.begin(header.step);
    context.arena.reset();
    try {
      if (header.kind == Kind::rows) {
        answer(ranks_, message, compute(context), experts_of(header.layer));
      } else {
        base::require(header.kind == Kind::step, "ranks", "rank {} was sent {} while it serves", ranks_.rank(),
                      comm::name(header.kind));
        serve_share(context, message);
      }
    } catch (const base::Error& error) {
      fail(error);
    } catch (const std::exception& error) {
      fail({base::ErrorKind::internal, "", error.what()});
    }
    done(clock.seconds());
  }
}

void stop_others(comm::Ranks& ranks) {
  for (int to = 0; to < ranks.size(); ++to)
    if (to != ranks.rank()) ranks.send(to, comm::Writer(Kind::stop, 0, -1));
}

}  // namespace coterie::runtime
