#include <algorithm>

#include "base/error.h"
#include "layers/attention/rope.h"
#include "layers/batch.h"
#include "models/bound_decoder.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

namespace coterie::models {

namespace {

/// The steps laid out as the rows of one batch.
struct Rows {
  std::vector<int32_t> ids, positions;
  std::vector<layers::SequenceRows> sequences;
  std::vector<int64_t> with_logits;
};

Rows lay_out(std::span<const SequenceStep> steps, int64_t vocabulary) {
  Rows rows;
  for (const SequenceStep& step : steps) {
    base::require(step.state != nullptr, "decoder", "a step without a state");
    if (step.ids.empty()) continue;
    layers::SequenceRows sequence{.state = step.state,
                                  .first_row = static_cast<int64_t>(rows.ids.size()),
                                  .rows = static_cast<int64_t>(step.ids.size()),
                                  .first_position = step.state->length(),
                                  .random_key = step.random_key};
    sequence.length = std::max(step.length, sequence.first_position + sequence.rows);
    for (const int32_t id : step.ids) {
      if (id < 0 || id >= vocabulary)
        base::fail(base::ErrorKind::bad_input, "input", "token id {} at position {} is outside the vocabulary of {}",
                   id, sequence.first_position + static_cast<int64_t>(rows.ids.size()) - sequence.first_row,
                   vocabulary);
      rows.positions.push_back(
          static_cast<int32_t>(sequence.first_position + static_cast<int64_t>(rows.ids.size()) - sequence.first_row));
      if (step.logits == SequenceStep::Logits::all) rows.with_logits.push_back(static_cast<int64_t>(rows.ids.size()));
      rows.ids.push_back(id);
    }
    if (step.logits == SequenceStep::Logits::last)
      rows.with_logits.push_back(static_cast<int64_t>(rows.ids.size()) - 1);
    rows.sequences.push_back(sequence);
  }
  return rows;
}

}  // namespace

BoundDecoder::BoundDecoder(ModelSpec spec, const checkpoint::TensorSource& source, const NameTable& names)
    : spec_(std::move(spec)), network_(spec_), binding_(bind(network_, source, names, spec_.tied_embeddings)) {}

tensor::Matrix BoundDecoder::forward(ops::Context& context, std::span<const SequenceStep> steps,
                                     const StepOptions& options) const {
  const Rows rows = lay_out(steps, spec_.vocabulary);
  const auto asked = static_cast<int64_t>(rows.with_logits.size());
  const tensor::Matrix logits = context.arena.matrix(asked, spec_.vocabulary);
  if (rows.ids.empty()) return logits;

  const tensor::ArenaScope scratch(context.arena);
  layers::Batch batch{context, rows.positions, rows.sequences, options.tap};
  const tensor::Matrix x = context.arena.matrix(batch.tokens(), spec_.width);
  network_.embedding.forward(context, rows.ids, x, spec_.embedding_multiplier);
  if (!spec_.shared.empty()) {
    const tensor::Matrix embedded = context.arena.matrix(x.rows, x.cols);
    std::copy_n(x.data, x.rows * x.cols, embedded.data);
    batch.embedded = embedded;
  }
  for (size_t layer = 0; layer < network_.blocks.size(); ++layer)
    network_.blocks[layer].forward(batch, static_cast<int64_t>(layer), x);
  if (asked == 0) return logits;

  const tensor::Matrix last = context.arena.matrix(asked, spec_.width);
  for (int64_t i = 0; i < asked; ++i)
    std::copy_n(x.row(rows.with_logits[static_cast<size_t>(i)]), spec_.width, last.row(i));
  network_.final_norm.forward(context, last, last);
  ops::matmul(context, last, network_.head(), network_.head_bias(), logits);
  if (spec_.logits_scaling != 1) ops::scale(context, logits, 1 / spec_.logits_scaling);
  if (spec_.logits_softcap) ops::softcap(context, logits, *spec_.logits_softcap);
  return logits;
}

void BoundDecoder::visit(layers::TensorVisitor& visitor) const {
  // The list of tensors is written once, for binding; readers of it are promised not to write.
  const_cast<Network&>(network_).visit(visitor);
}

bool BoundDecoder::cache_holds(int64_t before, int64_t after) const {
  return std::none_of(spec_.blocks.begin(), spec_.blocks.end(), [&](const BlockSpec& block) {
    const layers::RopeSpec* rope = rope_of(spec_, block);
    return rope && layers::Rope::frequencies_change(*rope, before, after);
  });
}

namespace {

template <typename F>
bool any_rope(const ModelSpec& spec, F of) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [&](const BlockSpec& block) {
    const layers::AttentionSpec* attention = attention_of(spec, block);
    return attention && attention->rope && of(*attention->rope);
  });
}

}  // namespace

bool grows_with_length(const Decoder& decoder) {
  return any_rope(decoder.spec(),
                  [](const layers::RopeSpec& rope) { return rope.scaling == layers::RopeSpec::Scaling::dynamic; });
}

bool starts_anew(const Decoder& decoder, int64_t before, int64_t after) {
  return any_rope(decoder.spec(), [&](const layers::RopeSpec& rope) {
    return rope.scaling == layers::RopeSpec::Scaling::longrope && layers::Rope::frequencies_change(rope, before, after);
  });
}

}  // namespace coterie::models
