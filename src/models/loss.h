#pragma once

#include <cstdint>
#include <span>

#include "layers/observer.h"
#include "models/decoder.h"
#include "ops/context.h"
#include "ops/tape.h"

namespace coterie::models {

/// The loss that the family's reference reports: the mean cross-entropy of the next token, plus spec().router_aux_loss
/// times the balance loss of all routers over all tokens. The sequences are one batch, each from its beginning.
struct BatchLoss {
  double cross_entropy = 0, balance = 0;
};
/// `observer` listens too.
BatchLoss batch_loss(ops::Context& context, const Decoder& decoder, std::span<const std::span<const int32_t>> sequences,
                     layers::Observer* observer = nullptr);
/// The same, and its gradients are added to the parameters that the tape was made for. Memory grows with the number of
/// tokens; context.arena and the tape keep theirs for the next batch.
BatchLoss add_gradients(ops::Context& context, ops::Tape& tape, const Decoder& decoder,
                        std::span<const std::span<const int32_t>> sequences, bool recompute = false);

}  // namespace coterie::models
