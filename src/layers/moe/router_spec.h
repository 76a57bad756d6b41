#pragma once

#include <cstdint>
#include <string_view>

namespace coterie::layers {

/// A router as a value: every routing rule of the supported families is one of these, and inference and training
/// evaluate it by the same code (choose.h). With h = W x (+ bias) a token's logits:
///
///   the value that decides:  h, or score(h) + selection bias; ties go to the lower expert index
///   groups:                  E experts in `groups` equal runs; only experts of the `groups_kept` best groups count
///   the chosen:              the K best, best first
///   their weights:           score(h), never with the selection bias; / their sum; × scale
struct RouterSpec {
  enum class Score {
    softmax,
    sigmoid,        // DeepSeek-V3, arXiv:2412.19437 eq. 15
    sqrt_softplus,  // sqrt(log(1 + exp h)): DeepSeek-V4
  };
  enum class Order {
    score_then_select,  // score all experts, choose the best k of the scores (Mixtral, Qwen, OLMoE)
    select_then_score,  // choose the best k logits, score those (gpt-oss, Granite)
  };
  enum class Selection {
    top_k,
    // k experts drawn without replacement in proportion to exp(value / temperature), where value is what decides
    // (Gumbel top-k); groups are kept as without
    sample,
    // k times the best expert, weighted by a softmax over those that come near it, then without it (PhiMoE:
    // SparseMixer, arXiv:2310.00811 and 2409.12136, as it is evaluated at inference). The weights do not sum to one.
    sparsemixer,
  };
  enum class GroupScore {
    best,      // its best value (DeepSeek-V2's group_limited_greedy, arXiv:2405.04434)
    best_two,  // the sum of its two best (DeepSeek-V3's noaux_tc)
  };

  int64_t experts = 0;            // E
  int64_t experts_per_token = 0;  // K
  Score score = Score::softmax;
  Order order = Order::score_then_select;
  bool bias = false;            // a bias [E] of the linear map, part of h (gpt-oss)
  bool selection_bias = false;  // a bias [E] that only helps to choose (e_score_correction_bias)
  int64_t groups = 1;           // n_group; one is none
  int64_t groups_kept = 1;      // topk_group
  GroupScore group_score = GroupScore::best;
  bool renormalise = false;            // weights of the chosen divided by their sum (norm_topk_prob) …
  double renormalise_epsilon = 1e-20;  // … plus this, as DeepSeek-V3 has it: sigmoids may all be zero
  float scale = 1;                     // then multiplied by it (routed_scaling_factor)
  Selection selection = Selection::top_k;
  float temperature = 1;    // of Selection::sample
  float near_best = 0.01f;  // of Selection::sparsemixer: half the relative distance that is near (router_jitter_noise)

  int64_t group_size() const { return experts / groups; }
};

/// Throws bad_input, naming the field, for a router that cannot be: K outside [1, E], groups that do not divide E or
/// that together hold fewer than K, a temperature that is not above zero, a scale that is not finite, and rules that
/// do not go together (SparseMixer with groups, biases of selection, another score or renormalisation).
void check(const RouterSpec& spec, std::string_view where);

}  // namespace coterie::layers
