#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "layers/moe/choose.h"
#include "layers/moe/router_spec.h"
#include "layers/moe/weigh.h"
#include "layers/sequence_state.h"
#include "tensor/view.h"

namespace coterie::layers {

/// What a rule that looks at all tokens sees of a batch.
struct BatchChoice {
  const RouterSpec& spec;
  tensor::ConstMatrix logits;  // [N, E]
  std::span<const SequenceRows> sequences;
};

/// "the 2 largest p + b"
std::string describe_largest(const RouterSpec& spec, const std::string& value);

/// A rule of choosing: RouterSpec::Selection as a file of this folder. kinds.cpp lists them.
struct RouterKind {
  std::string_view name;  // RouterSpec::selection in a config.json or a recipe
  /// Whether a token's experts depend on nothing but itself and what came before it in its sequence. What is not so is
  /// exempt from the laws of batches and of prefill, and a model with it is warned about.
  bool causal = true;
  /// Whether it draws random numbers outside of training too: then a sequence's key (a request's seed) decides whom its
  /// tokens go to, and no two sequences with other keys share what they have computed.
  bool draws = false;
  /// Whether its loads are even, or fixed, by the rule itself: a balance loss would have no effect, and is refused.
  bool even = false;
  /// Refuses what does not go with this rule, beside layers::check. May be null.
  void (*check)(const RouterSpec& spec, std::string_view where) = nullptr;
  /// Token by token: writes K different expert ids, best first. Null: the rule looks at the batch always.
  void (*choose)(const TokenChoice& token, int32_t* ids) = nullptr;
  /// Batch by batch, in training, or always when `choose` is null: ids [N, choices_per_token()], best first, -1 behind
  /// the last of a token's.
  void (*assign)(const BatchChoice& batch, int32_t* ids) = nullptr;
  /// assign gives a token any number of experts, up to all.
  bool any_number = false;
  /// What the experts' outputs are multiplied by, and its backward pass; see weigh.h.
  void (*weigh)(const TokenChoice& token, std::span<const int32_t> ids, float* weights) = weigh_scores;
  void (*weigh_backward)(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids,
                         const double* dweights, float* dlogits) = weigh_scores_backward;
  /// What `coterie inspect` says of whom it chooses, where `value` ("h", "p + b") decides.
  std::string (*choice)(const RouterSpec& spec, const std::string& value) = describe_largest;
  /// The whole formula, with `scale` ("2 × ", or nothing) before a weight, for rules with weights of their own. Null:
  /// "p = …; experts = …; weight = …", as the spec has it.
  std::string (*formula)(const RouterSpec& spec, const std::string& scale) = nullptr;
};

const RouterKind& kind_of(RouterSpec::Selection selection);
/// In the order of RouterSpec::Selection.
std::span<const RouterKind* const> router_kinds();

/// Ids that a token's choice may have: K, or E where any number is.
int64_t choices_per_token(const RouterSpec& spec);

}  // namespace coterie::layers
