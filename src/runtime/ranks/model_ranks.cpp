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

}  // namespace

ModelRanks::ModelRanks(comm::Ranks& ranks, const models::Decoder& decoder, const Options& options)
    : ranks_(ranks),
      decoder_(decoder),
      options_(options),
      inbox_(ranks),
      rows_are_apart_(rows_are_apart(decoder.spec())),
      row_cost_(row_cost(decoder.spec())),
      placement_(options.placement ? options.placement : std::make_shared<const ExpertPlacement>(ranks.size())),
      copies_(decoder.spec()),
      row_steps_(ranks, inbox_, decoder, options.least_weights) {
  if (options.split == Split::layers)
    layer_steps_ = std::make_unique<LayerSteps>(ranks, inbox_, decoder, rows_are_apart_);
}

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
  return [this, &context](int64_t layer, const ops::FormedRows& x, const ops::RoutingPlan& plan,
                          std::span<const int32_t> ids,
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
    if (options_.split == Split::rows) return forward_by(row_steps_, context, steps, given);
    if (layer_steps_) return forward_by(*layer_steps_, context, steps, given);
    if (divides(steps, given)) return forward_divided(context, steps, given);
    ExpertRanks experts(ranks_, inbox_, *placement_, false, context, compute(context));
    models::PassOptions pass = given;
    pass.experts = &experts;
    return decoder_.forward(context, steps, pass);
  } catch (...) {
    copies_.forget();
    throw;
  }
}

template <typename Steps>
Matrix ModelRanks::forward_by(Steps& all, ops::Context& context, std::span<const SequenceStep> steps,
                              const models::PassOptions& pass) {
  try {
    return all.forward(context, steps, pass);
  } catch (const base::Error& error) {
    all.forget();
    fail(error);
    throw;
  } catch (const std::exception& error) {
    all.forget();
    fail({base::ErrorKind::internal, "", error.what()});
    throw;
  }
}

Matrix ModelRanks::forward_divided(ops::Context& context, std::span<const SequenceStep> given,
                                   const models::PassOptions& options) {
  const std::vector<const SequenceStep*> steps = with_rows(given);
  SharedStep shared(ranks_, inbox_, sequences_of(steps), block_bytes(steps.front()->state->cache_dtype()),
                    models::state_floats(decoder_.spec()), row_cost_);
  copies_.begin(steps);
  for (int to = 1; to < ranks_.size(); ++to) send_share(to, shared, options.hidden);

  const std::vector<SequenceStep> own = own_part(shared, steps);
  ExpertRanks experts(ranks_, inbox_, *placement_, true, context, compute(context));
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

  copies_.keep(inbox_.step(), false);
  ++divided_;
  return result;
}

void ModelRanks::fail(const base::Error& error) {
  // Who failed elsewhere has told everybody.
  if (ranks_.lost() || dynamic_cast<const comm::RankFailure*>(&error)) return;
  for (int to = 0; to < ranks_.size(); ++to)
    if (to != ranks_.rank()) ranks_.send_failure(to, error, inbox_.step());
}

void ModelRanks::send_share(int to, const SharedStep& shared, bool hidden) {
  comm::Writer message(Kind::step, inbox_.step(), -1);
  message.value(static_cast<int64_t>(hidden));
  copies_.write(message, [&](size_t sequence) {
    const std::span<const Segment> segments = shared.segments();
    return std::any_of(segments.begin(), segments.end(), [&](const Segment& segment) {
      return segment.rank == to && segment.begin == 0 && segment.sequence == static_cast<int64_t>(sequence);
    });
  });
  ranks_.send(to, std::move(message));
}

void ModelRanks::serve_share(ops::Context& context, comm::Message& message) {
  const auto hidden = message.value<int64_t>();
  const std::vector<SequenceStep> whole = copies_.read(message);
  std::vector<SharedStep::Sequence> sequences;
  for (const SequenceStep& step : whole)
    sequences.push_back({step.state, {step.state->length(), std::ssize(step.ids)}});
  SharedStep shared(ranks_, inbox_, sequences, block_bytes(whole.front().state->cache_dtype()),
                    models::state_floats(decoder_.spec()), row_cost_);
  std::vector<const SequenceStep*> steps;
  for (const SequenceStep& step : whole) steps.push_back(&step);
  const std::vector<SequenceStep> own = own_part(shared, steps);
  ExpertRanks experts(ranks_, inbox_, *placement_, true, context, compute(context));
  const Matrix part = decoder_.forward(context, own, {.experts = &experts, .share = &shared, .hidden = hidden != 0});
  comm::Writer logits(Kind::logits, inbox_.step(), -1, static_cast<size_t>(part.rows * part.cols) * sizeof(float) + 8);
  logits.value(part.rows);
  auto* values = logits.room<float>(static_cast<size_t>(part.rows * part.cols));
  for (int64_t r = 0; r < part.rows; ++r) std::copy_n(part.row(r), part.cols, values + r * part.cols);
  ranks_.send(0, std::move(logits));
  shared.finish();
  copies_.keep_read(inbox_.step());
}

void ModelRanks::move_others(double seconds) {
  for (int to = 1; to < ranks_.size(); ++to) {
    comm::Writer message(Kind::move, inbox_.step(), -1);
    message.value(seconds);
    ranks_.send(to, std::move(message));
  }
}

void ModelRanks::serve(ops::Context& context, const std::function<void(double seconds)>& done,
                       const std::function<void(double seconds)>& move) {
  while (true) {
    comm::Message message = inbox_.next();
    const comm::Header& header = message.header();
    if (header.kind == Kind::stop) return;
    if (header.kind == Kind::move) {
      if (move) move(message.value<double>());
      continue;
    }
    const base::Stopwatch clock;
    inbox_.begin(header.step);
    context.arena.reset();
    try {
      if (header.kind == Kind::cache && layer_steps_) {
        layer_steps_->answer(message);
      } else if (header.kind == Kind::rows) {
        answer(ranks_, message, compute(context), experts_of(header.layer));
      } else {
        base::require(header.kind == Kind::step, "ranks", "rank {} was sent {} while it serves", ranks_.rank(),
                      comm::name(header.kind));
        if (layer_steps_)
          layer_steps_->serve(context, message);
        else
          options_.split == Split::rows ? row_steps_.serve(context, message) : serve_share(context, message);
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
