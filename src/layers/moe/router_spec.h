#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace coterie::layers {

/// A router as a value: every routing rule is one of these, and inference and training evaluate it by the same code
/// (router.h). With x a token and its logits h = W x (+ bias), or W₂ relu(W₁ x) where `hidden` is not 0:
///
///   what decides:   h, with noise in training if it has some; or score(h) + selection bias
///   groups:         E experts in `groups` equal runs; only experts of the `groups_kept` best groups count
///   the chosen:     by `selection`: the K best, best first, ties to the lower expert index; or a rule of routers/
///   their weights:  score(h), never with the selection bias; / their sum; × scale. Or 1 (`combine`)
///   capacity:       an expert takes so many tokens of a batch, in training; what is too much is dropped or moves on
struct RouterSpec {
  enum class Score {
    softmax,
    sigmoid,        // DeepSeek-V3, arXiv:2412.19437 eq. 15
    sqrt_softplus,  // sqrt(log(1 + exp h)): DeepSeek-V4
  };
  enum class Order {
    score_then_select,  // score all experts, choose the best k of the scores (Mixtral, Qwen, OLMoE)
    select_then_score,  // choose the best k logits, score those (gpt-oss, Granite, Shazeer 2017)
  };
  enum class Selection {  // a file of routers/ each
    top_k,
    // k experts drawn without replacement in proportion to exp(value / temperature), where value is what decides
    // (Gumbel top-k); groups are kept as without
    sample,
    // k times the best expert, weighted by a softmax over those that come near it, then without it (PhiMoE:
    // SparseMixer, arXiv:2310.00811 and 2409.12136). The weights do not sum to one.
    sparsemixer,
    // By a fixed random table of token ids, another for each layer (hash layers, arXiv:2106.04426)
    hash,
    // The experts choose: each the tokens of a sequence that score highest with it, T K / E of them; not causal
    // (arXiv:2202.09368)
    expert_choice,
    // In training the k best after Sinkhorn's iteration has evened the loads of a step; then top_k (arXiv:2202.01169)
    sinkhorn,
    // In training the assignment of a step's tokens with the largest sum of logits and even loads; then the largest
    // logit. K = 1, score sigmoid (BASE layers, arXiv:2103.16716)
    base,
    // No choice at all: experts read mixtures of a sequence's tokens, in `slots` each, and tokens get mixtures of what
    // they make of them; not causal (Soft MoE, arXiv:2308.00951). K = E
    soft,
  };
  enum class GroupScore {
    best,      // its best value (DeepSeek-V2's group_limited_greedy, arXiv:2405.04434)
    best_two,  // the sum of its two best (DeepSeek-V3's noaux_tc)
  };
  enum class Combine {
    weighted,
    sum,  // every chosen expert's output counts once
  };
  /// An expert takes at most ceil(factor * N * K / E) tokens of a batch of N (GShard, Switch). Which of more are left
  /// out: all first choices come before all second ones and earlier rows before later; or those with the smallest
  /// weights are. An assignment that is left out is dropped, or goes to the token's next best expert with room that
  /// the token has not got ("No token left behind", Switch Transformers, section 2.2 and appendix D).
  struct Capacity {
    double factor = 1;
    enum class Order { position, probability } order = Order::position;
    bool next_best = false;
  };

  int64_t experts = 0;            // E
  int64_t experts_per_token = 0;  // K
  Score score = Score::softmax;
  Order order = Order::score_then_select;
  int64_t hidden = 0;           // width of the router's own hidden layer; 0 = a linear map
  bool bias = false;            // a bias [E] of the linear map, part of h (gpt-oss); and one [hidden] of the first one
  bool selection_bias = false;  // a bias [E] that only helps to choose (e_score_correction_bias)
  float softcap = 0;            // h becomes softcap * tanh(h / softcap); 0 = none (Laguna)
  int64_t groups = 1;           // n_group; one is none
  int64_t groups_kept = 1;      // topk_group
  GroupScore group_score = GroupScore::best;
  // What the router reads is normed first: RMSNorm by this epsilon with weights [D], divided by sqrt(D) (Gemma 4).
  std::optional<float> input_norm = {};
  bool renormalise = false;            // weights of the chosen divided by their sum (norm_topk_prob) …
  double renormalise_epsilon = 1e-20;  // … plus this, as DeepSeek-V3 has it: sigmoids may all be zero
  bool renormalise_floor = false;      // … or by this where the sum is less, in place of adding it (ERNIE 4.5)
  float scale = 1;                     // then multiplied by it (routed_scaling_factor)
  bool expert_scale = false;           // and by a weight of the expert's own [E] (Gemma 4)
  Combine combine = Combine::weighted;
  Selection selection = Selection::top_k;
  float temperature = 1;    // of Selection::sample
  int64_t hash_seed = 0;    // of Selection::hash
  int64_t slots = 1;        // of Selection::soft, of each expert
  float near_best = 0.01f;  // of Selection::sparsemixer: half the relative distance that is near (router_jitter_noise)

  // In training, and outside of it where `always` says so:

  // Noisy top-k (Shazeer et al. 2017, arXiv:1701.06538 eq. 4): h + normal * softplus(W_noise x (+ bias)), with a second
  // map of the router's own, decides and is scored.
  bool noise = false, noise_bias = false;
  float jitter = 0;  // what the router reads is multiplied by uniform draws from [1 - jitter, 1 + jitter] (Switch)
  std::optional<Capacity> capacity = {};  // none: dropless
  struct Always {
    bool noise, jitter, capacity;
  } always = {};

  /// Whether there are logits at all: hash layers whose outputs are summed have none, and no tensors.
  bool has_map() const { return selection != Selection::hash || combine != Combine::sum; }
  int64_t group_size() const { return experts / groups; }
};

/// Throws bad_input, naming the field, for a router that cannot be: K outside [1, E], groups that do not divide E or
/// that together hold fewer than K, numbers that are not finite or not above zero where they have to be, and rules
/// that do not go together (SparseMixer with groups, biases of selection, another score or renormalisation).
void check(const RouterSpec& spec, std::string_view where);

}  // namespace coterie::layers
