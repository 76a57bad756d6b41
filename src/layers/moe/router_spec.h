#pragma once

#include <cstdint>

namespace coterie::layers {

/// A router as a value: every routing rule of the supported families is one of these, and inference and training
/// evaluate it by the same code, in f32. Ties go to the lower expert index.
struct RouterSpec {
  enum class Score { softmax, sigmoid };
  enum class Order {
    score_then_select,  // score all experts, choose the best k of the scores (Mixtral, Qwen, OLMoE)
    select_then_score,  // choose the best k logits, softmax over those (gpt-oss, Granite)
  };
  enum class Selection {
    top_k,
    sample,  // k experts drawn without replacement in proportion to softmax(logits / temperature) (Gumbel top-k)
  };

  int64_t experts = 0;            // E
  int64_t experts_per_token = 0;  // K
  Score score = Score::softmax;
  Order order = Order::score_then_select;
  bool renormalise = false;  // weights of the chosen divided by their sum (norm_topk_prob)
  float scale = 1;           // then multiplied by it (routed_scaling_factor)
  Selection selection = Selection::top_k;
  float temperature = 1;  // of Selection::sample
};

}  // namespace coterie::layers
