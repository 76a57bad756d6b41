#include "models/loss.h"

#include <memory>
#include <vector>

#include "layers/resident_state.h"
#include "models/score.h"

namespace coterie::models {

namespace {

/// The sequences as the steps of one batch, each from its beginning in a state of its own.
struct Batch {
  std::vector<std::unique_ptr<layers::ResidentState>> states;
  std::vector<std::vector<int32_t>> targets;
  std::vector<SequenceStep> steps;
  int64_t scored = 0;

  Batch(const ModelSpec& spec, std::span<const std::span<const int32_t>> sequences) {
    targets.reserve(sequences.size());
    for (const std::span<const int32_t> ids : sequences) {
      if (ids.empty()) continue;
      states.push_back(std::make_unique<layers::ResidentState>(cache_block_bytes(spec, tensor::DType::f32),
                                                               tensor::DType::f32, state_floats(spec)));
      states.back()->reserve(std::ssize(ids));
      std::vector<int32_t>& next = targets.emplace_back(ids.begin() + 1, ids.end());
      next.push_back(-1);
      scored += std::ssize(ids) - 1;
      steps.push_back({.ids = ids, .state = states.back().get(), .targets = next});
    }
  }
};

BatchLoss evaluate(ops::Context& context, const Decoder& decoder, const Batch& batch, bool recompute,
                   layers::Observer* observer) {
  const double weight = static_cast<double>(decoder.spec().router_aux_loss);
  LoadBalance balance(weight);
  layers::Observers observers{&balance, observer};
  PassOptions options;
  options.observer = observers.get(), options.recompute = recompute;
  options.gradient_weight = batch.scored ? 1 / static_cast<double>(batch.scored) : 0;
  if (weight > 0) options.router_loss = &balance;
  BatchLoss loss;
  loss.cross_entropy = decoder.loss(context, batch.steps, options) * options.gradient_weight;
  if (weight > 0) loss.balance = weight * balance.loss();
  if (context.tape) context.tape->backward(context);
  return loss;
}

}  // namespace

BatchLoss batch_loss(ops::Context& context, const Decoder& decoder, std::span<const std::span<const int32_t>> sequences,
                     layers::Observer* observer) {
  return evaluate(context, decoder, Batch(decoder.spec(), sequences), false, observer);
}

BatchLoss add_gradients(ops::Context& context, ops::Tape& tape, const Decoder& decoder,
                        std::span<const std::span<const int32_t>> sequences, bool recompute) {
  const Batch batch(decoder.spec(), sequences);
  ops::Context recording = context;
  recording.tape = &tape;
  return evaluate(recording, decoder, batch, recompute, nullptr);
}

}  // namespace coterie::models
