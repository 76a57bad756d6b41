#include "models/bound_decoder.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "layers/attention/indexer.h"
#include "layers/attention/rope.h"
#include "layers/batch.h"
#include "layers/layer_range.h"
#include "layers/moe/prefetching_source.h"
#include "models/next_routing.h"
#include "models/shown_weights.h"
#include "ops/elementwise.h"
#include "ops/loss.h"
#include "ops/matmul.h"
#include "ops/row_share.h"
#include "ops/tape.h"

namespace coterie::models {

/// The steps laid out as the rows of one batch.
struct BoundDecoder::Rows {
  std::vector<int32_t> ids, positions, targets;
  std::vector<layers::SequenceRows> sequences;
  std::vector<int64_t> with_logits, place;  // rows whose logits are asked for, and which of the result's rows is theirs
  bool may_leave = false;
};

std::shared_ptr<const BoundDecoder::Rows> BoundDecoder::lay_out(std::span<const SequenceStep> steps,
                                                                bool scored) const {
  auto result = std::make_shared<Rows>();
  Rows& rows = *result;
  for (const SequenceStep& step : steps) {
    base::require(step.state != nullptr, "decoder", "a step without a state");
    if (step.ids.empty()) continue;
    layers::SequenceRows sequence{.step = step,
                                  .first_row = static_cast<int64_t>(rows.ids.size()),
                                  .rows = static_cast<int64_t>(step.ids.size()),
                                  .first_position = step.state->length()};
    const int64_t end = sequence.first_position + sequence.rows;
    sequence.step.length = std::max(step.length, end);
    rows.may_leave |= step.leaves != nullptr;
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
    rows.sequences.push_back(std::move(sequence));
    if (!scored) continue;
    base::require(step.targets.size() == step.ids.size(), "decoder", "{} targets for {} ids", step.targets.size(),
                  step.ids.size());
    for (const int32_t target : step.targets)
      if (target < -1 || target >= spec_.vocabulary)
        base::fail(base::ErrorKind::bad_input, "input", "target {} is outside the vocabulary of {}", target,
                   spec_.vocabulary);
    rows.targets.insert(rows.targets.end(), step.targets.begin(), step.targets.end());
  }
  rows.place.resize(rows.with_logits.size());
  std::iota(rows.place.begin(), rows.place.end(), 0);
  // The caller's ids and targets need not outlive the pass, the rows may (ops::Tape::recompute).
  for (layers::SequenceRows& sequence : rows.sequences) {
    const auto first = static_cast<size_t>(sequence.first_row), count = static_cast<size_t>(sequence.rows);
    sequence.step.ids = std::span(rows.ids).subspan(first, count);
    if (scored) sequence.step.targets = std::span(rows.targets).subspan(first, count);
  }
  return result;
}

namespace {

bool rows_matter(const ModelSpec& spec) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const BlockSpec& block) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    return moe && moe->router.capacity && moe->router.always.capacity;
  });
}

bool has_shortcuts(const ModelSpec& spec) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const BlockSpec& b) { return b.adds_shortcut; });
}

/// Rows begin … end - 1 of a step, as a batch of their own.
struct Piece {
  int64_t begin = 0, end = 0;
  std::vector<layers::SequenceRows> sequences;
};

/// What a block takes at a time: all rows, or `at_once` of them.
std::vector<Piece> cut(const std::vector<layers::SequenceRows>& sequences, int64_t rows, int64_t at_once) {
  if (at_once <= 0 || at_once >= rows) return {{0, rows, sequences}};
  std::vector<Piece> pieces;
  for (int64_t begin = 0; begin < rows; begin += at_once) {
    Piece piece{begin, std::min(begin + at_once, rows), {}};
    for (const layers::SequenceRows& s : sequences) {
      const int64_t from = std::max(begin, s.first_row), to = std::min(piece.end, s.first_row + s.rows);
      if (from >= to) continue;
      layers::SequenceRows part = s;
      part.first_row = from - begin, part.rows = to - from, part.first_position += from - s.first_row;
      part.step.ids = s.step.ids.subspan(static_cast<size_t>(from - s.first_row), static_cast<size_t>(to - from));
      piece.sequences.push_back(std::move(part));
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

void move_rows(tensor::Matrix x, int64_t from, int64_t to, int64_t count) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(x.row(from + r), x.cols, x.row(to + r));
}

}  // namespace

std::shared_ptr<const BoundDecoder::Rows> BoundDecoder::without_leavers(std::shared_ptr<const Rows> rows, int64_t layer,
                                                                        tensor::Matrix& x, tensor::Matrix& embedded,
                                                                        tensor::Matrix& shortcut) const {
  std::vector<char> stays;
  for (const layers::SequenceRows& s : rows->sequences) stays.push_back(!s.step.leaves || !(*s.step.leaves)(layer));
  const auto staying = std::count(stays.begin(), stays.end(), 1);
  if (staying == std::ssize(stays) || (rows_matter_ && staying > 0)) return rows;

  auto result = std::make_shared<Rows>();
  Rows& left = *result;
  left.may_leave = rows->may_leave;
  size_t logits = 0;  // of rows->with_logits, which ascend
  for (size_t i = 0; i < stays.size(); ++i) {
    layers::SequenceRows sequence = rows->sequences[i];
    const int64_t from = sequence.first_row, end = from + sequence.rows;
    sequence.first_row = std::ssize(left.ids);
    for (; logits < rows->with_logits.size() && rows->with_logits[logits] < end; ++logits) {
      if (!stays[i]) continue;
      left.with_logits.push_back(rows->with_logits[logits] - from + sequence.first_row);
      left.place.push_back(rows->place[logits]);
    }
    if (!stays[i]) continue;
    left.ids.insert(left.ids.end(), rows->ids.begin() + from, rows->ids.begin() + end);
    left.positions.insert(left.positions.end(), rows->positions.begin() + from, rows->positions.begin() + end);
    move_rows(x, from, sequence.first_row, sequence.rows);
    if (embedded.data) move_rows(embedded, from, sequence.first_row, sequence.rows);
    if (shortcut.data) move_rows(shortcut, from, sequence.first_row, sequence.rows);
    left.sequences.push_back(std::move(sequence));
  }
  for (layers::SequenceRows& s : left.sequences)
    s.step.ids = std::span(left.ids).subspan(static_cast<size_t>(s.first_row), static_cast<size_t>(s.rows));
  x = x.row_range(0, std::ssize(left.ids));
  if (embedded.data) embedded = embedded.row_range(0, std::ssize(left.ids));
  if (shortcut.data) shortcut = shortcut.row_range(0, std::ssize(left.ids));
  return result;
}

BoundDecoder::BoundDecoder(ModelSpec spec, base::FunctionRef<Binding(Network& network)> bind)
    : spec_(std::move(spec)), network_(spec_), rows_matter_(rows_matter(spec_)), binding_(bind(network_)) {}

tensor::Matrix BoundDecoder::run_blocks(ops::Context& context, std::shared_ptr<const Rows>& rows,
                                        const PassOptions& pass) const {
  base::require(!rows->may_leave || !context.tape, "decoder", "a sequence may not leave a step under a tape");
  const auto tokens = static_cast<int64_t>(rows->ids.size());
  const layers::LayerRange all, &here = pass.layers ? *pass.layers : all;
  const bool begins = here.first == 0;
  const auto end_layer = static_cast<size_t>(std::min(here.end, std::ssize(network_.blocks)));
  base::require(begins || (here.entering.rows == tokens && here.entering.cols == spec_.width), "decoder",
                "[{}, {}] enters layer {} for {} rows", here.entering.rows, here.entering.cols, here.first, tokens);
  tensor::Matrix x = context.arena.matrix(tokens, spec_.width);
  if (begins || !spec_.shared.empty())
    network_.embedding.forward(context, rows->ids, rows->positions, x, spec_.embedding_multiplier);
  if (network_.prediction) {
    const tensor::ArenaScope scratch(context.arena);
    const tensor::Matrix before = context.arena.matrix(tokens, spec_.width);
    for (const layers::SequenceRows& s : rows->sequences) {
      base::require(s.step.before.rows == s.rows && s.step.before.cols == spec_.width, "prediction head",
                    "[{}, {}] of the model for {} rows", s.step.before.rows, s.step.before.cols, s.rows);
      ops::copy(context, s.step.before, before.row_range(s.first_row, s.first_row + s.rows));
    }
    network_.prediction->forward(context, before, x);
  }
  tensor::Matrix embedded, shortcut;
  if (has_shortcuts(spec_)) shortcut = context.arena.matrix(x.rows, x.cols);
  const auto* const piecewise = dynamic_cast<const layers::PiecewiseSource*>(pass.experts);
  const int64_t at_once = piecewise ? piecewise->rows_at_once() : 0;
  auto* const prefetching = dynamic_cast<layers::PrefetchingSource*>(pass.experts);
  const bool looks_ahead = prefetching && !context.tape && prefetching->looks_ahead();
  base::require(at_once == 0 || !context.tape, "decoder", "a step under a tape is not cut");
  std::vector<std::shared_ptr<layers::Selections>> selections;  // of each piece
  if (!spec_.shared.empty()) {
    embedded = context.arena.matrix(x.rows, x.cols);
    ops::copy(context, x, embedded);
  }
  if (!begins) ops::copy(context, here.entering, x);
  const auto shown = show_weights(pass.observer, network_.names());
  std::shared_ptr<const std::vector<Piece>> pieces;
  for (auto layer = static_cast<size_t>(here.first); layer < end_layer; ++layer) {
    const int64_t at = first_layer_ + static_cast<int64_t>(layer);
    const std::shared_ptr<const Rows> before = rows;
    if (rows->may_leave) rows = without_leavers(rows, at, x, embedded, shortcut);
    if (rows->sequences.empty()) break;
    if (!pieces || rows != before)
      pieces = std::make_shared<const std::vector<Piece>>(cut(rows->sequences, x.rows, at_once));
    while (selections.size() < pieces->size()) selections.push_back(std::make_shared<layers::Selections>());
    size_t routed = layer + 1;  // the next layer whose experts are asked for
    while (looks_ahead && routed < end_layer && !network_.blocks[routed].has_router()) ++routed;
    const bool guesses = looks_ahead && routed < end_layer;
    const auto run = [this, rows, pieces, layer, at, x, embedded, shortcut, selections, pass, prefetching, guesses,
                      routed, show = shown.get()](const ops::Context& with, layers::Observer* observer) {
      PassOptions observed = pass;
      observed.observer = observer;
      ops::Context context_of_layer = with;
      if (observer && show) show->layer = at, context_of_layer.observer = show;
      const auto part = [](auto matrix, const Piece& p) {
        return matrix.data ? matrix.row_range(p.begin, p.end) : matrix;
      };
      for (size_t p = 0; p < pieces->size(); ++p) {
        const Piece& piece = (*pieces)[p];
        const auto begin = static_cast<size_t>(piece.begin), count = static_cast<size_t>(piece.end - piece.begin);
        const layers::Batch batch{.context = context_of_layer,
                                  .positions = std::span(rows->positions).subspan(begin, count),
                                  .sequences = piece.sequences,
                                  .pass = observed,
                                  .embedded = part(embedded, piece),
                                  .ids = std::span(rows->ids).subspan(begin, count),
                                  .shortcut = part(shortcut, piece),
                                  .selections = selections[p].get()};
        const tensor::Matrix rows_of_piece = part(x, piece);
        std::optional<NextRouting> next;  // of the last piece, after which that layer begins
        if (guesses && p + 1 == pieces->size())
          next.emplace(network_.blocks[routed], first_layer_ + static_cast<int64_t>(routed), batch, rows_of_piece);
        const layers::PrefetchScope told(next ? prefetching : nullptr, next ? &*next : nullptr);
        network_.blocks[layer].forward(batch, at, rows_of_piece);
      }
      if (observer) observer->block(at, x);
    };
    if (!pass.recompute || !context.tape) {
      run(context, pass.observer);
      continue;
    }
    std::vector<tensor::Matrix> inputs = {x};
    if (shortcut.data) inputs.push_back(shortcut);
    for (const layers::SequenceRows& s : rows->sequences) {
      const std::span<float> state = s.step.state->recurrent(at);
      if (!state.empty()) inputs.emplace_back(state.data(), 1, static_cast<int64_t>(state.size()));
    }
    // Observed the first time only: what is counted is counted once. The second time outlives `shown`, too.
    context.tape->recompute(context, std::move(inputs),
                            [run, observer = pass.observer, seen = false](ops::Context& with) mutable {
                              run(with, std::exchange(seen, true) ? nullptr : observer);
                            });
  }
  if (here.leaving.data) ops::copy(context, x, here.leaving);
  return x;
}

tensor::Matrix BoundDecoder::forward(ops::Context& context, std::span<const SequenceStep> steps,
                                     const PassOptions& options) const {
  base::require(options.gradient_weight == 1, "decoder", "a gradient's weight is for a loss");
  std::shared_ptr<const Rows> rows = lay_out(steps, false);
  const auto asked = static_cast<int64_t>(rows->with_logits.size());
  const tensor::Matrix result = context.arena.matrix(asked, options.hidden ? spec_.width : spec_.vocabulary);
  if (rows->ids.empty()) return result;

  const tensor::ArenaScope scope(context.arena);
  const tensor::Matrix x = run_blocks(context, rows, options);
  if (options.layers && options.layers->leaving.data) return result.row_range(0, 0);
  for (const layers::SequenceRows& s : rows->sequences) {
    if (s.step.normed.rows == 0) continue;
    const tensor::Matrix of_sequence = x.row_range(s.first_row, s.first_row + s.rows);
    if (spec_.prediction_before_norm)
      ops::copy(context, of_sequence, s.step.normed);
    else
      network_.final_norm.forward(context, of_sequence, s.step.normed);
  }
  const auto kept = static_cast<int64_t>(rows->with_logits.size());
  if (kept > 0) {
    const tensor::Matrix of_kept = result.row_range(0, kept);
    const tensor::Matrix last = options.hidden ? of_kept : context.arena.matrix(kept, spec_.width);
    ops::copy_rows(context, x, rows->with_logits, last);
    network_.final_norm.forward(context, last, last);
    if (!options.hidden) {
      const auto shown = show_weights(options.observer, network_.names());
      ops::Context of_head = context;
      if (shown) of_head.observer = shown.get();
      if (of_head.rows) of_head.rows = &of_head.rows->to_first();
      ops::matmul(of_head, last, network_.head(), network_.head_bias(), of_kept);
      if (spec_.logits_scaling != 1) ops::scale(context, of_kept, 1 / spec_.logits_scaling);
      if (spec_.logits_softcap) ops::softcap(context, of_kept, *spec_.logits_softcap);
    }
  }
  const auto show = [&] {
    if (options.observer && !options.hidden) options.observer->logits(result);
    return result;
  };
  if (kept == asked) return show();
  // Some have left. The rows of those that stayed lie first and in order: from the last on, each moves to its place.
  for (int64_t r = asked, next = kept - 1; r-- > 0;) {
    if (next >= 0 && rows->place[static_cast<size_t>(next)] == r)
      move_rows(result, next--, r, 1);
    else
      std::fill_n(result.row(r), result.cols, 0.0f);
  }
  return show();
}

double BoundDecoder::loss(ops::Context& context, std::span<const SequenceStep> steps,
                          const PassOptions& options) const {
  base::require(options.training || (options.dropout == 0 && options.expert_dropout == 0), "decoder",
                "dropout is for training");
  base::require(!options.hidden, "decoder", "a loss is of logits");
  std::shared_ptr<const Rows> rows = lay_out(steps, true);
  if (rows->ids.empty()) return 0;
  base::require(!rows->may_leave, "decoder", "no sequence may leave a step whose loss is asked for");
  const tensor::ArenaScope scope(context.arena);
  const tensor::Matrix x = run_blocks(context, rows, options);
  const auto show = [&] {
    for (const layers::SequenceRows& s : rows->sequences)
      if (s.step.normed.rows > 0) ops::copy(context, x.row_range(s.first_row, s.first_row + s.rows), s.step.normed);
  };
  if (spec_.prediction_before_norm) show();
  network_.final_norm.forward(context, x, x);
  if (!spec_.prediction_before_norm) show();
  const ops::HeadShape head{network_.head(), 1 / spec_.logits_scaling, spec_.logits_softcap, network_.head_bias()};
  const auto shown = show_weights(options.observer, network_.names());
  ops::Context of_head = context;
  if (shown) of_head.observer = shown.get();
  return ops::next_token_loss(of_head, x, head, rows->targets, options.gradient_weight);
}

void BoundDecoder::read(layers::TensorReader& reader) const { network_.read(reader); }

void BoundDecoder::expert_outputs(ops::Context& context, int64_t layer, const ops::FormedRows& x,
                                  const ops::RoutingPlan& plan, std::span<const int32_t> ids,
                                  tensor::Matrix out) const {
  const layers::Experts* experts = layer >= 0 && layer < std::ssize(network_.blocks)
                                       ? network_.blocks[static_cast<size_t>(layer)].experts()
                                       : nullptr;
  base::require(experts != nullptr, "decoder", "layer {} has no routed experts", layer);
  experts->outputs(context, x, plan, ids, out);
}

void BoundDecoder::rebind(layers::TensorVisitor& visitor) {
  network_.visit(visitor);
  network_.arrange();
}

void BoundDecoder::weights_changed() { network_.arrange(); }

bool BoundDecoder::cache_holds(int64_t before, int64_t after) const {
  return std::none_of(spec_.blocks.begin(), spec_.blocks.end(), [&](const BlockSpec& block) {
    const layers::RopeSpec* rope = rope_of(spec_, block);
    return rope && layers::Rope::frequencies_change(*rope, before, after);
  });
}

}  // namespace coterie::models
