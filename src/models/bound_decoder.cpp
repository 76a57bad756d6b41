#include "models/bound_decoder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "layers/attention/rope.h"
#include "layers/batch.h"
#include "ops/elementwise.h"
#include "ops/loss.h"
#include "ops/matmul.h"
#include "ops/tape.h"

namespace coterie::models {

/// The steps laid out as the rows of one batch.
struct BoundDecoder::Rows {
  std::vector<int32_t> ids, positions, targets;
  std::vector<layers::SequenceRows> sequences;
  std::vector<int64_t> with_logits;
};

std::shared_ptr<const BoundDecoder::Rows> BoundDecoder::lay_out(std::span<const SequenceStep> steps,
                                                                bool scored) const {
  auto result = std::make_shared<Rows>();
  Rows& rows = *result;
  for (const SequenceStep& step : steps) {
    base::require(step.state != nullptr, "decoder", "a step without a state");
    if (step.ids.empty()) continue;
    layers::SequenceRows sequence{.state = step.state,
                                  .first_row = static_cast<int64_t>(rows.ids.size()),
                                  .rows = static_cast<int64_t>(step.ids.size()),
                                  .first_position = step.state->length(),
                                  .random_key = step.random_key};
    sequence.length = std::max(step.length, sequence.first_position + sequence.rows);
    const int64_t end = sequence.first_position + sequence.rows;
    if (spec_.learned_positions > 0 && end > spec_.learned_positions)
      base::fail(base::ErrorKind::bad_input, "input", "{} positions, but the model has learned {}", end,
                 spec_.learned_positions);
    for (const int32_t id : step.ids) {
      if (id < 0 || id >= spec_.vocabulary)
        base::fail(base::ErrorKind::bad_input, "input", "token id {} at position {} is outside the vocabulary of {}",
                   id, sequence.first_position + static_cast<int64_t>(rows.ids.size()) - sequence.first_row,
                   spec_.vocabulary);
      rows.positions.push_back(
          static_cast<int32_t>(sequence.first_position + static_cast<int64_t>(rows.ids.size()) - sequence.first_row));
      if (step.logits == SequenceStep::Logits::all) rows.with_logits.push_back(static_cast<int64_t>(rows.ids.size()));
      rows.ids.push_back(id);
    }
    if (step.logits == SequenceStep::Logits::last)
      rows.with_logits.push_back(static_cast<int64_t>(rows.ids.size()) - 1);
    rows.sequences.push_back(sequence);
    if (!scored) continue;
    base::require(step.targets.size() == step.ids.size(), "decoder", "{} targets for {} ids", step.targets.size(),
                  step.ids.size());
    for (const int32_t target : step.targets)
      if (target < -1 || target >= spec_.vocabulary)
        base::fail(base::ErrorKind::bad_input, "input", "target {} is outside the vocabulary of {}", target,
                   spec_.vocabulary);
    rows.targets.insert(rows.targets.end(), step.targets.begin(), step.targets.end());
  }
  return result;
}

BoundDecoder::BoundDecoder(ModelSpec spec, base::FunctionRef<Binding(Network& network)> bind)
    : spec_(std::move(spec)), network_(spec_), binding_(bind(network_)) {}

tensor::Matrix BoundDecoder::run_blocks(ops::Context& context, const std::shared_ptr<const Rows>& rows,
                                        const Pass& pass) const {
  const auto tokens = static_cast<int64_t>(rows->ids.size());
  const tensor::Matrix x = context.arena.matrix(tokens, spec_.width);
  network_.embedding.forward(context, rows->ids, rows->positions, x, spec_.embedding_multiplier);
  tensor::Matrix embedded;
  if (!spec_.shared.empty()) {
    embedded = context.arena.matrix(x.rows, x.cols);
    ops::copy(context, x, embedded);
  }
  for (size_t layer = 0; layer < network_.blocks.size(); ++layer) {
    const auto at = static_cast<int64_t>(layer);
    const auto run = [this, rows, at, x, embedded, pass](ops::Context& with, layers::Tap* tap) {
      const layers::Batch batch{.context = with,
                                .positions = rows->positions,
                                .sequences = rows->sequences,
                                .tap = tap,
                                .dropout = pass.dropout,
                                .router_loss = pass.router_loss,
                                .embedded = embedded,
                                .ids = rows->ids,
                                .expert_dropout = pass.expert_dropout,
                                .training = pass.training};
      network_.blocks[static_cast<size_t>(at)].forward(batch, at, x);
      if (tap) tap->block(at, x);
    };
    if (!pass.recompute || !context.tape) {
      run(context, pass.tap);
      continue;
    }
    std::vector<tensor::Matrix> inputs = {x};
    for (const layers::SequenceRows& s : rows->sequences) {
      const std::span<float> state = s.state->recurrent(at);
      if (!state.empty()) inputs.emplace_back(state.data(), 1, static_cast<int64_t>(state.size()));
    }
    // Observed the first time only: what is counted is counted once.
    context.tape->recompute(context, std::move(inputs),
                            [run, tap = pass.tap, seen = false](ops::Context& with) mutable {
                              run(with, std::exchange(seen, true) ? nullptr : tap);
                            });
  }
  return x;
}

tensor::Matrix BoundDecoder::forward(ops::Context& context, std::span<const SequenceStep> steps,
                                     const StepOptions& options) const {
  const std::shared_ptr<const Rows> rows = lay_out(steps, false);
  const auto asked = static_cast<int64_t>(rows->with_logits.size());
  const tensor::Matrix logits = context.arena.matrix(asked, spec_.vocabulary);
  if (rows->ids.empty()) return logits;

  const tensor::ArenaScope scope(context.arena);
  const tensor::Matrix x = run_blocks(context, rows, {.tap = options.tap});
  if (asked == 0) return logits;

  const tensor::Matrix last = context.arena.matrix(asked, spec_.width);
  ops::copy_rows(context, x, rows->with_logits, last);
  network_.final_norm.forward(context, last, last);
  ops::matmul(context, last, network_.head(), network_.head_bias(), logits);
  if (spec_.logits_scaling != 1) ops::scale(context, logits, 1 / spec_.logits_scaling);
  if (spec_.logits_softcap) ops::softcap(context, logits, *spec_.logits_softcap);
  return logits;
}

double BoundDecoder::loss(ops::Context& context, std::span<const SequenceStep> steps,
                          const LossOptions& options) const {
  base::require(options.training || (options.dropout == 0 && options.expert_dropout == 0), "decoder",
                "dropout is for training");
  const std::shared_ptr<const Rows> rows = lay_out(steps, true);
  if (rows->ids.empty()) return 0;
  const tensor::ArenaScope scope(context.arena);
  const tensor::Matrix x = run_blocks(
      context, rows,
      {options.tap, options.router_loss, options.dropout, options.expert_dropout, options.recompute, options.training});
  network_.final_norm.forward(context, x, x);
  const ops::HeadShape head{network_.head(), 1 / spec_.logits_scaling, spec_.logits_softcap, network_.head_bias()};
  return ops::next_token_loss(context, x, head, rows->targets, options.gradient_weight);
}

void BoundDecoder::visit(layers::TensorVisitor& visitor) const {
  // The list of tensors is written once, for binding; readers of it are promised not to write.
  const_cast<Network&>(network_).visit(visitor);
}

void BoundDecoder::rebind(layers::TensorVisitor& visitor) {
  network_.visit(visitor);
  network_.arrange();
}

bool BoundDecoder::cache_holds(int64_t before, int64_t after) const {
  return std::none_of(spec_.blocks.begin(), spec_.blocks.end(), [&](const BlockSpec& block) {
    const layers::RopeSpec* rope = rope_of(spec_, block);
    return rope && layers::Rope::frequencies_change(*rope, before, after);
  });
}

}  // namespace coterie::models
