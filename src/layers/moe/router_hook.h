#pragma once

#include <cstdint>
#include <span>

#include "layers/moe/router_spec.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Changes what the routers decide for one sequence (SequenceStep::routers): the others of its batch keep their bits.
/// Called by the thread that runs the pass, for each router with the rows of that sequence alone, at positions
/// first_position …. Not under a tape, and not for a Soft MoE, whose tokens no router sends anywhere.
class RouterHook {
 public:
  virtual ~RouterHook() = default;

  /// The rule that the sequence's tokens are chosen and weighed by, in place of the router's own; null: that one. It
  /// has the same experts, no more of them for a token, and goes token by token; it lives as long as the hook.
  virtual const RouterSpec* rule(int64_t layer) const { return (void)layer, nullptr; }
  /// Before the choice: logits [rows, E], which it may change. An expert whose logit is -infinity gets no token: rules
  /// that rank experts take the next best, one that goes by a table (hash) or by the experts' own choice leaves its
  /// place empty.
  virtual void logits(int64_t layer, int64_t first_position, tensor::Matrix logits) const {
    (void)layer, (void)first_position, (void)logits;
  }
  /// After the choice, and after a capacity took some away: ids and weights [rows, K], best first, -1 where there is no
  /// expert, which it may change. K: RouterSpec::experts_per_token, or E where a token may have any number.
  virtual void choices(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids,
                       std::span<float> weights) const {
    (void)layer, (void)first_position, (void)rows, (void)ids, (void)weights;
  }
  /// What is guessed of a layer before it is reached (RoutingGuess): ids [rows, any number], best first, which it may
  /// change. Decides nothing.
  virtual void guessed(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids) const {
    (void)layer, (void)first_position, (void)rows, (void)ids;
  }
};

}  // namespace coterie::layers
