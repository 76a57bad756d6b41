#pragma once

#include <map>
#include <string>

#include "base/json.h"

namespace coterie::tiny {

/// Tiny configs of families with parts of their own, as changes to the usual sizes (tiny_model.cpp).
inline std::map<std::string, base::Json> configs_of_parts() {
  std::map<std::string, base::Json> all;
  const auto add = [&](const std::string& family, const base::Json& changes) { all[family] = changes; };
  add("gemma4_text", {{"head_dim", 16},
                      {"global_head_dim", 24},
                      {"num_global_key_value_heads", 1},
                      {"attention_k_eq_v", true},
                      {"hidden_size_per_layer_input", 0},
                      {"layer_types", {"sliding_attention", "sliding_attention", "full_attention"}},
                      {"sliding_window", 6},
                      {"enable_moe_block", true},
                      {"num_experts", 6},
                      {"top_k_experts", 2},
                      {"moe_intermediate_size", 32},
                      {"final_logit_softcapping", 12}});
  add("mimo_v2_flash", {{"head_dim", 24},
                        {"v_head_dim", 16},
                        {"sliding_window", 7},
                        {"n_routed_experts", 6},
                        {"num_experts_per_tok", 2},
                        {"moe_intermediate_size", 32},
                        {"attention_value_scale", 0.8},
                        {"n_group", 2},
                        {"topk_group", 1}});
  const base::Json low_rank = {{"num_key_value_heads", 4}, {"q_lora_rank", 24},     {"kv_lora_rank", 16},
                               {"qk_nope_head_dim", 8},    {"qk_rope_head_dim", 8}, {"v_head_dim", 12}};
  base::Json longcat = low_rank;
  longcat.update({{"num_hidden_layers", nullptr},
                  {"num_layers", 2},
                  {"ffn_hidden_size", 48},
                  {"expert_ffn_hidden_size", 32},
                  {"moe_topk", 3},
                  {"n_routed_experts", 5},
                  {"zero_expert_num", 3},
                  {"routed_scaling_factor", 2.5}});
  add("longcat_flash", longcat);
  add("minimax", {{"head_dim", 8},
                  {"layer_types", {"linear_attention", "full_attention", "linear_attention"}},
                  {"num_local_experts", 6},
                  {"num_experts_per_tok", 2},
                  {"full_attn_alpha_factor", 1.2},
                  {"linear_attn_beta_factor", 0.8},
                  {"mlp_alpha_factor", 0.9}});
  add("step3p5", {{"head_dim", 16},
                  {"layer_types", {"full_attention", "sliding_attention", "sliding_attention"}},
                  {"num_sliding_attention_heads", 6},
                  {"sliding_window", 6},
                  {"n_routed_experts", 6},
                  {"num_experts_per_tok", 2},
                  {"moe_intermediate_size", 32},
                  {"share_expert_dim", 24},
                  {"mlp_layer_types", {"dense", "sparse", "sparse"}},
                  {"swiglu_limits", {0, 0.6, 0}},
                  {"swiglu_limits_shared", {0.7, 0, 0.5}},
                  {"moe_router_scaling_factor", 1.5}});
  base::Json indexed = low_rank;
  indexed.update({{"n_routed_experts", 6},
                  {"num_experts_per_tok", 2},
                  {"moe_intermediate_size", 32},
                  {"first_k_dense_replace", 1},
                  {"n_group", 2},
                  {"topk_group", 1},
                  {"num_nextn_predict_layers", 0},
                  {"index_topk", 9},
                  {"index_head_dim", 12},
                  {"index_n_heads", 16}});  // so that no score is 0 and ties with others
  add("deepseek_v32", indexed);
  indexed.update({{"indexer_types", {"full", "shared", "full"}}});
  add("glm_moe_dsa", indexed);
  return all;
}

}  // namespace coterie::tiny
