#include "tiny_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/rng.h"
#include "families/family.h"
#include "families/names/merged_rows.h"
#include "models/network.h"
#include "tiny_parts.h"

namespace coterie::tiny {

namespace {

class Drawer : public layers::TensorVisitor {
 public:
  Drawer(families::NameTable names, uint64_t seed) : names_(std::move(names)), seed_(seed) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight&) override {
    const float scale = tensor.place == layers::Place::input_embeddings ? 1.0f : root(cols);
    draw(name(tensor.path, -1), shape_of(tensor, {rows, cols}), scale, 0);
  }
  void vector(const Tensor& tensor, int64_t n, layers::Vector&) override {
    const bool norm = tensor.place == layers::Place::norms;
    draw(name(tensor.path, -1), shape_of(tensor, {n}), norm ? 0.2f : 0.1f, norm ? 1.0f : 0.0f);
  }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, layers::Vector&) override {
    draw(name(tensor.path, -1), shape_of(tensor, {rows, cols}), root(cols), 0);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, std::vector<tensor::Weight>&) override {
    if (const families::Piece piece = name_of(tensor.path).piece; families::is_of_heads(piece)) {
      if (piece == families::Piece::head_keys)
        draw(name(tensor.path, -1), {experts * (cols + tensor.merged_with), rows}, root(rows), 0);
      return;
    }
    if (const families::NameInFile& in_file = name_of(tensor.path);
        in_file.pattern.find("{expert}") == std::string::npos) {
      draw(name(tensor.path, -1),
           families::shape_in_file(in_file.form, {experts, rows * families::rows_listed(in_file.piece), cols},
                                   tensor.parts),
           root(cols), 0);
      return;
    }
    for (int64_t e = 0; e < experts; ++e) draw(name(tensor.path, e), {rows, cols}, root(cols), 0);
  }
  void vectors(const Tensor& tensor, int64_t experts, int64_t n, layers::Vector&) override {
    draw(name(tensor.path, -1), {experts, n * families::rows_listed(name_of(tensor.path).piece)}, 0.1f, 0);
  }
  std::vector<checkpoint::MemoryTensor> tensors;

 private:
  static float root(int64_t n) { return 1.0f / std::sqrt(static_cast<float>(n)); }
  const families::NameInFile& name_of(const std::string& path) const {
    return names_.find(families::path_pattern(path).pattern)->front();
  }
  tensor::Shape shape_of(const Tensor& tensor, tensor::Shape shape) const {
    const families::NameInFile& in_file = name_of(tensor.path);
    shape.front() = families::rows_listed(in_file.piece, shape.front(), tensor.parts, tensor.merged_with);
    return families::shape_in_file(in_file.form, shape, tensor.parts);
  }
  std::string name(const std::string& path, int64_t expert) const {
    const auto [pattern, layer, item] = families::path_pattern(path);
    return families::expand(names_.find(pattern)->front().pattern, layer, expert, item);
  }
  void draw(const std::string& name, tensor::Shape shape, float scale, float offset) {
    if (tensor::element_count(shape) == 0) return;  // the second half of a merged tensor
    // A fused tensor is drawn anew with each part, as long as they are together.
    const auto known = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
    const auto index = static_cast<size_t>(known - tensors.begin());
    if (known != tensors.end()) shape.front() += known->shape.front();
    base::Rng rng(seed_, index);
    std::vector<std::byte> bytes(static_cast<size_t>(tensor::element_count(shape)) * 4);
    for (size_t i = 0; i < bytes.size(); i += 4) {
      const float value = offset + scale * rng.normal();
      std::memcpy(bytes.data() + i, &value, 4);
    }
    if (index == tensors.size()) tensors.emplace_back();
    tensors[index] = {name, tensor::DType::f32, shape, std::move(bytes)};
  }

  families::NameTable names_;
  uint64_t seed_;
};

}  // namespace

const std::map<std::string, base::Json>& configs() {
  static const std::map<std::string, base::Json> all = [] {
    const base::Json base = {{"vocab_size", 67},
                             {"hidden_size", 32},
                             {"intermediate_size", 64},
                             {"num_hidden_layers", 3},
                             {"num_attention_heads", 4},
                             {"num_key_value_heads", 2},
                             {"max_position_embeddings", 512}};
    std::map<std::string, base::Json> configs;
    const auto add = [&](const std::string& family, const base::Json& changes) {
      base::Json json = base;
      json.update(changes);
      json["model_type"] = family;
      for (auto key = json.begin(); key != json.end();) key = key->is_null() ? json.erase(key) : std::next(key);
      configs[family] = json;
    };
    add("llama", {{"attention_bias", true},
                  {"tie_word_embeddings", true},
                  {"rope_scaling",
                   {{"rope_type", "llama3"},
                    {"factor", 8},
                    {"low_freq_factor", 1},
                    {"high_freq_factor", 4},
                    {"original_max_position_embeddings", 64}}}});
    add("mistral", {{"sliding_window", 5}, {"head_dim", 16}});
    add("qwen2", {{"use_sliding_window", true}, {"sliding_window", 6}, {"max_window_layers", 1}});
    add("qwen3", {{"head_dim", 16}});
    add("gemma2",
        {{"head_dim", 16}, {"sliding_window", 5}, {"query_pre_attn_scalar", 20}, {"attn_logit_softcapping", 8}});
    add("gemma3_text", {{"head_dim", 16},
                        {"sliding_window", 6},
                        {"sliding_window_pattern", 2},
                        {"query_pre_attn_scalar", 20},
                        {"rope_scaling", {{"rope_type", "linear"}, {"factor", 4}}}});
    add("phi3",
        {{"hidden_size", 64},
         {"partial_rotary_factor", 0.5},
         {"sliding_window", 30},
         {"original_max_position_embeddings", 400},
         {"rope_scaling", {{"type", "longrope"}, {"short_factor", {1, 1.5, 2, 3}}, {"long_factor", {2, 3, 5, 9}}}}});
    add("olmo2", {{"attention_bias", true}});
    add("granite", {{"mlp_bias", true}, {"residual_multiplier", 0.4}, {"attention_multiplier", 0.3}});
    add("granitemoe", {{"num_local_experts", 7},
                       {"num_experts_per_tok", 3},
                       {"embedding_multiplier", 3},
                       {"logits_scaling", 2},
                       {"residual_multiplier", 0.5},
                       {"attention_multiplier", 0.3}});
    add("granitemoeshared", {{"num_local_experts", 5},
                             {"num_experts_per_tok", 2},
                             {"shared_intermediate_size", 32},
                             {"attention_multiplier", 0.3}});
    add("gpt_oss", {{"num_local_experts", 8},
                    {"num_experts_per_tok", 3},
                    {"head_dim", 16},
                    {"sliding_window", 7},
                    {"swiglu_limit", 1.5},
                    {"rope_theta", 5000}});
    add("phimoe", {{"num_local_experts", 6},
                   {"attention_bias", true},
                   {"lm_head_bias", true},
                   {"router_jitter_noise", 0.3},
                   {"sliding_window", 20},
                   {"rope_scaling",
                    {{"type", "longrope"},
                     {"short_mscale", 1.1},
                     {"long_mscale", 1.2},
                     {"original_max_position_embeddings", 400},
                     {"short_factor", {1, 1.5, 2, 3}},
                     {"long_factor", {2, 3, 5, 9}}}}});
    add("mixtral", {{"num_local_experts", 6}, {"num_experts_per_tok", 2}, {"sliding_window", 9}});
    add("olmoe", {{"num_experts", 9}, {"num_experts_per_tok", 4}, {"num_key_value_heads", 4}, {"clip_qkv", 1.5}});
    add("qwen2_moe", {{"num_experts", 7},
                      {"num_experts_per_tok", 3},
                      {"moe_intermediate_size", 32},
                      {"shared_expert_intermediate_size", 64},
                      {"decoder_sparse_step", 2}});
    add("qwen3_moe", {{"num_experts", 16},
                      {"num_experts_per_tok", 4},
                      {"moe_intermediate_size", 32},
                      {"head_dim", 16},
                      {"norm_topk_prob", true},
                      {"mlp_only_layers", {1}}});
    // Not one key of attention; null leaves a key out.
    const base::Json no_attention = {{"num_attention_heads", nullptr}, {"num_key_value_heads", nullptr}};
    const auto add_without_attention = [&](const std::string& family, base::Json changes) {
      changes.update(no_attention);
      add(family, changes);
    };
    add_without_attention("mamba", {{"state_size", 5}, {"time_step_rank", 3}});
    add_without_attention("falcon_mamba", {{"state_size", 8}, {"conv_kernel", 3}});
    add_without_attention("mamba2", {{"num_heads", 4},
                                     {"head_dim", 16},
                                     {"n_groups", 2},
                                     {"state_size", 12},
                                     {"time_step_limit", {0.3, 0.9}},
                                     {"intermediate_size", nullptr}});
    add("jamba", {{"num_hidden_layers", 4},
                  {"num_experts", 5},
                  {"attn_layer_period", 3},
                  {"attn_layer_offset", 1},
                  {"mamba_d_state", 6}});
    add("zamba", {{"num_hidden_layers", 4},
                  {"num_key_value_heads", 4},
                  {"layers_block_type", {"mamba", "hybrid", "mamba", "hybrid"}},
                  {"mamba_d_state", 7},
                  {"mamba_proj_bias", true}});
    add("zamba2", {{"num_hidden_layers", 5},
                   {"num_key_value_heads", 4},
                   {"layers_block_type", {"hybrid", "hybrid", "mamba", "hybrid", "hybrid"}},
                   {"num_mem_blocks", 2},
                   {"use_mem_rope", true},
                   {"use_shared_attention_adapter", true},
                   {"adapter_rank", 3},
                   {"n_mamba_heads", 4},
                   {"mamba_ngroups", 2},
                   {"mamba_d_state", 9}});
    add("granitemoehybrid", {{"num_hidden_layers", 4},
                             {"layer_types", {"mamba", "attention", "mamba", "attention"}},
                             {"num_local_experts", 6},
                             {"shared_intermediate_size", 24},
                             {"mamba_n_heads", 4},
                             {"mamba_d_state", 10},
                             {"position_embedding_type", "rope"},
                             {"embedding_multiplier", 3},
                             {"logits_scaling", 2},
                             {"residual_multiplier", 0.5},
                             {"attention_multiplier", 0.3}});
    const base::Json mla = {
        {"num_key_value_heads", 4},  {"kv_lora_rank", 32},    {"qk_nope_head_dim", 24},   {"qk_rope_head_dim", 8},
        {"v_head_dim", 16},          {"n_routed_experts", 8}, {"num_experts_per_tok", 3}, {"moe_intermediate_size", 32},
        {"first_k_dense_replace", 1}};
    base::Json v2 = mla, v3 = mla;
    v2.update({{"q_lora_rank", nullptr},
               {"n_shared_experts", 2},
               {"topk_method", "group_limited_greedy"},
               {"n_group", 4},
               {"topk_group", 2},
               {"routed_scaling_factor", 1.5},
               {"rope_scaling",
                {{"type", "yarn"},
                 {"factor", 4},
                 {"original_max_position_embeddings", 16},
                 {"mscale", 0.707},
                 {"mscale_all_dim", 0.707}}}});
    v3.update({{"q_lora_rank", 32},
               {"attention_bias", true},
               {"n_shared_experts", 1},
               {"n_group", 2},
               {"topk_group", 1},
               {"num_nextn_predict_layers", 0}});
    add("deepseek_v2", v2);
    add("deepseek_v3", v3);
    add("glm4_moe", {{"head_dim", 16},
                     {"attention_bias", true},
                     {"use_qk_norm", true},
                     {"partial_rotary_factor", 0.5},
                     {"n_routed_experts", 9},
                     {"num_experts_per_tok", 2},
                     {"n_shared_experts", 1},
                     {"moe_intermediate_size", 32},
                     {"first_k_dense_replace", 1},
                     {"routed_scaling_factor", 2},
                     {"num_nextn_predict_layers", 0}});
    add("dots1", {{"head_dim", 16},
                  {"attention_bias", true},
                  {"sliding_window", 7},
                  {"max_window_layers", 1},
                  {"n_routed_experts", 8},
                  {"num_experts_per_tok", 3},
                  {"n_shared_experts", 2},
                  {"n_group", 2},
                  {"topk_group", 1},
                  {"moe_intermediate_size", 32},
                  {"first_k_dense_replace", 1},
                  {"norm_topk_prob", true},
                  {"routed_scaling_factor", 2.5}});
    base::Json lite = mla;
    lite.update({{"q_lora_rank", 32},
                 {"n_shared_experts", 1},
                 {"n_group", 2},
                 {"topk_group", 1},
                 {"mlp_layer_types", {"sparse", "dense", "sparse"}},
                 {"first_k_dense_replace", nullptr},
                 {"num_nextn_predict_layers", 0}});
    add("glm4_moe_lite", lite);
    const base::Json experts = {{"num_experts", 8}, {"num_experts_per_tok", 3}, {"moe_intermediate_size", 32}};
    const auto add_with_experts = [&](const std::string& family, base::Json changes) {
      changes.update(experts);
      add(family, changes);
    };
    add("minimax_m2", {{"head_dim", 16}, {"rotary_dim", 8}, {"num_local_experts", 8}, {"num_experts_per_tok", 3}});
    add("ernie4_5_moe", {{"num_hidden_layers", 4},
                         {"moe_num_experts", 6},
                         {"moe_k", 2},
                         {"moe_intermediate_size", 32},
                         {"moe_num_shared_experts", 1},
                         {"moe_layer_interval", 2},
                         {"moe_norm_min", 0.3},
                         {"use_bias", true}});
    add_with_experts("mellum", {{"head_dim", 16},
                                {"sliding_window", 6},
                                {"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}},
                                {"mlp_layer_types", {"dense", "sparse", "sparse"}},
                                {"norm_topk_prob", false},
                                {"rope_parameters",
                                 {{"full_attention", {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 5000}}},
                                  {"sliding_attention", {{"rope_theta", 300}}}}}});
    add_with_experts("exaone_moe", {{"num_hidden_layers", 4},
                                    {"head_dim", 16},
                                    {"sliding_window", 6},
                                    {"sliding_window_pattern", 2},
                                    {"n_group", 2},
                                    {"topk_group", 1}});
    add("solar_open", {{"head_dim", 16},
                       {"attention_bias", true},
                       {"n_routed_experts", 8},
                       {"num_experts_per_tok", 2},
                       {"moe_intermediate_size", 32},
                       {"routed_scaling_factor", 1.5}});
    add_with_experts("hy_v3", {{"head_dim", 16}, {"mlp_bias", true}, {"num_nextn_predict_layers", 0}});
    add("granitemoe_swa", {{"num_local_experts", 6},
                           {"num_experts_per_tok", 2},
                           {"sliding_window", 6},
                           {"layer_rope_theta", {0, 10000, 10000}},
                           {"shared_intermediate_size", 32},
                           {"attention_multiplier", 0.3},
                           {"residual_multiplier", 0.5}});
    add("flex_olmo", {{"num_key_value_heads", 4}, {"num_experts", 7}, {"num_experts_per_tok", 3}});
    add("hunyuan_v1_moe", {{"head_dim", 16}, {"num_experts", 6}, {"moe_topk", 2}});
    add_with_experts("qwen3_vl_moe_text", {{"head_dim", 16}, {"mlp_only_layers", {1}}});
    add("llama4_text", {{"num_hidden_layers", 4},
                        {"head_dim", 16},
                        {"num_local_experts", 6},
                        {"num_experts_per_tok", 2},
                        {"intermediate_size_mlp", 96},
                        {"interleave_moe_layer_step", 2},
                        {"attention_chunk_size", 7},
                        {"floor_scale", 5}});
    add("jetmoe",
        {{"num_attention_heads", 6}, {"kv_channels", 16}, {"num_local_experts", 5}, {"num_experts_per_tok", 3}});
    add("dbrx", {{"hidden_size", nullptr},
                 {"intermediate_size", nullptr},
                 {"num_hidden_layers", nullptr},
                 {"num_attention_heads", nullptr},
                 {"num_key_value_heads", nullptr},
                 {"max_position_embeddings", nullptr},
                 {"d_model", 32},
                 {"n_layers", 2},
                 {"n_heads", 4},
                 {"max_seq_len", 512},
                 {"attn_config", {{"kv_n_heads", 2}, {"clip_qkv", 1.5}, {"rope_theta", 500000}}},
                 {"ffn_config", {{"ffn_hidden_size", 64}, {"moe_num_experts", 6}, {"moe_top_k", 3}}}});
    add_with_experts("bailing_moe_v2", {{"head_dim", 16},
                                        {"partial_rotary_factor", 0.5},
                                        {"use_qkv_bias", true},
                                        {"n_group", 2},
                                        {"topk_group", 1},
                                        {"routed_scaling_factor", 2.5},
                                        {"first_k_dense_replace", 1}});
    const base::Json linear = {{"head_dim", 16},
                               {"linear_num_key_heads", 2},
                               {"linear_num_value_heads", 4},
                               {"linear_key_head_dim", 12},
                               {"linear_value_head_dim", 8},
                               {"linear_conv_kernel_dim", 3},
                               {"layer_types", {"linear_attention", "full_attention", "linear_attention"}}};
    const base::Json linear_moe = {{"num_experts", 6},
                                   {"num_experts_per_tok", 2},
                                   {"moe_intermediate_size", 32},
                                   {"shared_expert_intermediate_size", 32}};
    base::Json next = linear, next_moe = linear;
    next.update(linear_moe), next_moe.update(linear_moe);
    next.update(
        {{"attention_bias", true}, {"mlp_only_layers", {1}}, {"layer_types", nullptr}, {"full_attention_interval", 2}});
    add("qwen3_next", next);
    add("qwen3_5_moe_text", next_moe);
    add("qwen3_5_text", linear);
    base::Json kda = mla;
    kda.update({{"n_routed_experts", nullptr}, {"num_experts", 8}, {"num_shared_experts", 1}});
    base::Json kimi = kda, ling = kda;
    kimi.update({{"linear_head_dim", 12},
                 {"linear_num_heads", 3},
                 {"q_lora_rank", nullptr},
                 {"num_expert_group", 2},
                 {"topk_group", 1},
                 {"layer_types", {"linear_attention", "full_attention", "linear_attention"}}});
    ling.update({{"head_dim", 12},
                 {"q_lora_rank", 24},
                 {"num_expert_group", 2},
                 {"topk_group", 1},
                 {"layer_group_size", 2},
                 {"short_conv_kernel_size", 3},
                 {"kda_lower_bound", -4},
                 {"num_nextn_predict_layers", 0}});
    add("kimi_linear", kimi);
    add("bailing_hybrid", ling);
    const base::Json conv = {{"layer_types", {"conv", "full_attention", "conv"}}, {"conv_L_cache", 4}};
    base::Json conv_moe = conv;
    conv_moe.update({{"num_experts", 6},
                     {"num_experts_per_tok", 2},
                     {"moe_intermediate_size", 32},
                     {"num_dense_layers", 1},
                     {"routed_scaling_factor", 1.5}});
    base::Json conv_biased = conv;
    conv_biased.update({{"conv_bias", true}, {"block_multiple_of", 32}, {"tie_word_embeddings", false}});
    add("lfm2", conv_biased);
    add("lfm2_moe", conv_moe);
    add("afmoe", {{"head_dim", 16},
                  {"global_attn_every_n_layers", 2},
                  {"sliding_window", 6},
                  {"mup_enabled", true},
                  {"num_experts", 6},
                  {"num_experts_per_tok", 2},
                  {"num_shared_experts", 2},
                  {"moe_intermediate_size", 32},
                  {"route_scale", 1.5}});
    add("laguna", {{"head_dim", 16},
                   {"num_attention_heads_per_layer", {2, 6, 4}},
                   {"layer_types", {"full_attention", "sliding_attention", "full_attention"}},
                   {"gating", "per-element"},
                   {"sliding_window", 7},
                   {"num_experts", 6},
                   {"num_experts_per_tok", 3},
                   {"shared_expert_intermediate_size", 24},
                   {"moe_intermediate_size", 32},
                   {"moe_router_logit_softcapping", 2.5},
                   {"moe_routed_scaling_factor", 0.8}});
    for (const auto& [family, changes] : configs_of_parts()) add(family, changes);
    add("nemotron_h", {{"num_hidden_layers", nullptr},
                       {"layers_block_type", {"mamba", "moe", "attention", "mlp", "moe"}},
                       {"head_dim", 16},
                       {"mamba_num_heads", 4},
                       {"mamba_head_dim", 12},
                       {"n_groups", 2},
                       {"ssm_state_size", 8},
                       {"n_routed_experts", 6},
                       {"num_experts_per_tok", 2},
                       {"moe_intermediate_size", 32},
                       {"moe_shared_expert_intermediate_size", 24},
                       {"moe_latent_size", 24},
                       {"routed_scaling_factor", 2.5}});
    add("coterie", {{"norm", "layer"},
                    {"norm_place", "both"},
                    {"positions", "learned"},
                    {"mixer", {"attention", "mamba", "mamba2"}},
                    {"ffn", {"moe", "dense", "moe"}},
                    {"attention_output_bias", true},
                    {"qk_norm", "per_head"},
                    {"mamba_d_state", 6},
                    {"mamba_n_heads", 4},
                    {"hidden_act", "gelu"},
                    {"gated", false},
                    {"ffn_bias", true},
                    {"moe_intermediate_size", 32},
                    {"shared_expert_intermediate_size", 32},
                    {"shared_expert_gate", true},
                    {"router", {{"experts", 5}, {"experts_per_token", 2}, {"bias", true}, {"renormalise", true}}},
                    {"head_bias", true}});
    return configs;
  }();
  return all;
}

std::vector<checkpoint::MemoryTensor> weights(const models::ModelSpec& spec, uint64_t seed) {
  models::Network network(spec);
  Drawer drawer(families::family_of(spec).hugging_face_names(), seed);
  network.visit(drawer);
  return std::move(drawer.tensors);
}

checkpoint::MemoryTensor& find(std::vector<checkpoint::MemoryTensor>& tensors, const std::string& name) {
  for (checkpoint::MemoryTensor& tensor : tensors)
    if (tensor.name == name) return tensor;
  base::fail(base::ErrorKind::not_found, "tiny model", "no tensor {}", name);
}

Model bind(const models::ModelSpec& spec, std::vector<checkpoint::MemoryTensor> tensors,
           checkpoint::Metadata metadata) {
  Model model;
  model.source = checkpoint::memory_source(std::move(tensors), std::move(metadata));
  model.decoder = families::bind_decoder(spec, *model.source);
  return model;
}

Model make(const std::string& family, uint64_t seed) {
  const models::ModelSpec spec = families::read_config(configs().at(family), "tiny", true);
  return bind(spec, weights(spec, seed));
}

}  // namespace coterie::tiny
