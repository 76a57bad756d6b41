#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "layers/moe/router_spec.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

// What each layer is, as plain data. families/ reads them from config.json or GGUF metadata.
namespace coterie::layers {

struct NormSpec {
  enum class Kind { rms, layer };
  Kind kind = Kind::rms;
  float eps = 1e-6f;
  float weight_offset = 0;  // Gemma's 1 + w
  bool bias = false;        // LayerNorm only
};

/// Rotary embedding and its scalings (transformers' rope_type).
struct RopeSpec {
  enum class Scaling { none, linear, dynamic, llama3, yarn, longrope };
  ops::RopeTable::Style style = ops::RopeTable::Style::half;
  int64_t dims = 0;  // rotary dimensions of a head
  double theta = 10000;
  Scaling scaling = Scaling::none;
  double factor = 1;
  // original_max_position_embeddings (llama3, yarn, longrope); the length past which the base grows (dynamic)
  int64_t original_context = 0;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  std::optional<double> attention_factor;            // yarn; else 0.1 ln(factor) + 1, or from mscale
  std::optional<double> mscale, mscale_all_dim;      // yarn, DeepSeek's form
  bool truncate = true;                              // yarn: round the correction range to whole dims
  // longrope (Ding et al. 2024, arXiv:2402.13753): divisors [dims/2] of the frequencies and the magnitude, for
  // sequences up to the original context and beyond it.
  std::vector<float> short_factors, long_factors;
  float short_magnitude = 1, long_magnitude = 1;
  std::vector<float> divisors;  // [dims/2] of the frequencies (GGUF's rope_freqs.weight); usually empty
  // Of the `dims`, by whose number the frequencies go: the pairs after so many have the frequency 0 (transformers'
  // "proportional", Gemma 4). 0: none has.
  int64_t turning_dims = 0;
};

/// activation(g) times what the heads of a mixer give, before its output projection; g is a projection of its input.
struct OutputGate {
  enum class Shape {
    none,
    per_head,      // one number a head (Ling 3)
    per_channel,   // a projection of its own (AFMoE)
    beside_query,  // per channel: in the queries' projection each head's gate follows its query (Qwen3-Next)
  };
  Shape shape = Shape::none;
  ops::Activation activation = ops::Activation::sigmoid;
};

struct AttentionSpec {
  int64_t heads = 0, kv_heads = 0;
  int64_t head_dim = 0;   // of queries and keys
  int64_t value_dim = 0;  // of values
  float scale = 0;        // of q·k
  int64_t window = 0;     // sliding window; 0 = none
  float softcap = 0;      // of q·k: cap * tanh(q·k / cap); 0 = none (Gemma 2)
  bool sinks = false;     // a logit for each head that takes part in the softmax and adds nothing (gpt-oss)
  OutputGate gate;
  bool q_bias = false, k_bias = false, v_bias = false, o_bias = false;
  // Values are what keys are projected to, before norm and positions: there is no projection of their own (Gemma 4).
  bool values_are_keys = false;
  bool value_norm = false;  // an RMSNorm of each head's values without weights, by qk_norm_eps (Gemma 4)
  float value_scale = 1;    // values are multiplied by it (MiMo-V2)
  enum class QkNorm {
    none,
    per_head,       // Qwen3
    full_width,     // OLMoE, OLMo 2
    per_head_plain  // without weights (Llama 4)
  };
  QkNorm qk_norm = QkNorm::none;
  float qk_norm_eps = 1e-6f, qk_norm_offset = 0;
  std::optional<float> clip_qkv;
  std::optional<RopeSpec> rope;     // none: positions enter nowhere in this layer
  bool qk_norm_after_rope = false;  // the norm reads rotated queries and keys (Hunyuan, Llama 4)
  int64_t chunk = 0;  // a token sees its own run of so many positions only, from a multiple of it on (Llama 4); 0 = all
  /// Queries are multiplied by 1 + scale * ln(1 + floor((position + 1) / period)): layers without positions keep their
  /// attention sharp over long contexts so (Nakanishi 2025, arXiv:2501.19399; Llama 4).
  struct Temperature {
    float scale = 0, period = 1;
  };
  std::optional<Temperature> temperature;
  // Queries and outputs have experts (JetMoE's mixture of attention heads, Shen et al. 2024, arXiv:2404.07413 §3.2): a
  // token's K experts each have their own projection to a query for every KV head, and their own back. Keys and values
  // are shared, and `heads` is K * kv_heads.
  std::optional<RouterSpec> experts;
};

/// What chooses the positions that a token of latent attention sees (DeepSeek-V3.2, arXiv:2512.02556 §2.1): the top_k
/// largest of Σ_h w_h(x) · relu(q_h · k_j / sqrt(head_dim)), with few small heads of queries, made of the queries'
/// latent, and one key a position. Up to top_k positions all are seen, and it computes no more than its keys.
struct IndexerSpec {
  int64_t heads = 0, head_dim = 0;
  int64_t top_k = 0;
  // Of its queries and keys, whose first dimensions turn as the attention's rotary ones do.
  ops::RopeTable::Style style = ops::RopeTable::Style::half;
  float norm_eps = 1e-6f;  // of the LayerNorm of its keys
  // false: the layer has no indexer, and sees what the last one before it that has chose (GLM-5.2, arXiv:2603.12201)
  bool own = true;
};

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434 §2.1): keys and values are low-rank projections of one
/// latent a token, and only a part of each key carries positions, the same for all heads.
struct LatentAttentionSpec {
  int64_t heads = 0;
  int64_t q_rank = 0;                  // of the queries' projection; 0 = one full matrix (q_lora_rank)
  int64_t kv_rank = 0;                 // of keys and values (kv_lora_rank)
  int64_t nope_dim = 0, rope_dim = 0;  // of a query or key: without positions, with
  int64_t value_dim = 0;
  float scale = 0;         // of q·k
  bool bias = false;       // of the projections that read or write the model's width, but q where it is one matrix
  float norm_eps = 1e-6f;  // of the norms of both latents
  RopeSpec rope;
  bool positions = true;   // false: no query or key is rotated, and positions enter nowhere (Kimi Linear)
  OutputGate gate;         // none, or per head
  float latent_scale = 1;  // of the normed latent of keys and values (LongCat-Flash)
  std::optional<IndexerSpec> indexer;

  int64_t head_dim() const { return nope_dim + rope_dim; }
};

/// Mamba (Gu & Dao 2023, arXiv:2312.00752): a gated selective state-space model.
struct MambaSpec {
  int64_t inner = 0;   // channels
  int64_t states = 0;  // of each channel
  int64_t conv_width = 4;
  int64_t dt_rank = 0;
  int64_t heads = 1;  // the channels in as many parts, each with its own projections to dt, B and C (Zamba)
  ops::Activation activation = ops::Activation::silu;  // after the convolution; the gate's is SiLU in every family
  bool conv_bias = true, projection_bias = false;
  enum class InnerNorm {
    none,
    weighted,
    plain
  };  // RMSNorm of dt, B and C: with weights (Jamba), without (FalconMamba)
  InnerNorm inner_norm = InnerNorm::none;
  float inner_norm_eps = 1e-6f;
};

/// Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): heads with one decay each; B and C shared by groups of heads.
struct Mamba2Spec {
  int64_t heads = 0, head_dim = 0;
  int64_t states = 0, groups = 1;
  int64_t conv_width = 4;
  ops::Activation activation = ops::Activation::silu;
  bool conv_bias = true, projection_bias = false;
  float dt_min = 0, dt_max = std::numeric_limits<float>::infinity();  // limits of the time step
  float norm_eps = 1e-5f;  // of the gated RMSNorm, which runs over each group's channels

  int64_t inner() const { return heads * head_dim; }
  int64_t conv_channels() const { return inner() + 2 * groups * states; }
};

/// Linear attention by the gated delta rule: with a decay for each head Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024,
/// arXiv:2412.06464; Qwen3-Next), with one for each channel of its keys Kimi Delta Attention (arXiv:2510.26692).
struct DeltaRuleSpec {
  int64_t key_heads = 0, value_heads = 0;
  int64_t key_dim = 0, value_dim = 0;  // of a head
  // Value heads in turn for each key head (h mod key_heads), as GGUF files of some families have them; else those of a
  // key head side by side.
  bool by_turn = false;
  int64_t conv_width = 4;
  ops::Activation activation = ops::Activation::silu;  // after the convolution
  bool fused = true;                                   // q, k and v are one projection and one convolution; else three
  bool decay_by_key = false;                           // a decay for each channel of a key; else one for each head
  float decay_floor = 0;                               // of the decay's logarithm (ops::Decay); 0: none
  int64_t decay_rank = 0, gate_rank = 0;               // of low-rank projections to the decay and the gate; 0: full
  ops::Activation gate = ops::Activation::silu;        // of the normed result
  float norm_eps = 1e-6f;                              // of the result's norm, over a head

  int64_t key_width() const { return key_heads * key_dim; }
  int64_t value_width() const { return value_heads * value_dim; }
  int64_t conv_channels() const { return 2 * key_width() + value_width(); }
  int64_t decay_width() const { return value_heads * (decay_by_key ? key_dim : 1); }
};

/// A gated short convolution in attention's place (LFM2, arXiv:2511.23404): b, c, u = W_in x; W_out (c · conv(b · u)).
struct ShortConvSpec {
  int64_t conv_width = 3;
  bool bias = false;  // of the convolution and of both projections
};

/// Linear attention whose state decays by a constant of the head (Lightning Attention-2, arXiv:2401.04658; MiniMax-01,
/// arXiv:2501.08313): q, k, v = act(W x); S = exp(-s_h) S + k vᵀ, o = Sᵀ q; W_o (norm(o) · sigmoid(W_g x)), the norm
/// over all heads.
struct LightningSpec {
  int64_t heads = 0, head_dim = 0;
  ops::Activation activation = ops::Activation::silu;  // of q, k and v
  // s_h = 2^(-8 (h + 1) / heads) times it: from about 1 in the first layer to about 0 in the last
  float slope = 1;
  float norm_eps = 1e-6f;

  int64_t width() const { return heads * head_dim; }
};

struct DenseFfnSpec {
  int64_t hidden = 0;  // F
  ops::Activation activation = ops::Activation::silu;
  bool gated = true;  // SwiGLU and kin; else down(act(up x))
  bool bias = false;
  float clamp = 0;  // ops::GateRule's, of both halves; 0: none (Step 3.5)
};

struct MoeSpec {
  RouterSpec router;
  int64_t hidden = 0;  // F of a routed expert
  ops::Activation activation = ops::Activation::silu;
  bool gated = true;
  bool bias = false;                         // on the routed experts' projections
  float swiglu_limit = 0, swiglu_alpha = 1;  // gpt-oss's clamped SwiGLU (ops::GateRule); a limit of 0 is none
  int64_t shared_hidden = 0;                 // F of the shared expert; 0 = none
  float jitter = 0;  // in training, of what router and experts read, on top of the router's own (Mixtral's code)
  bool shared_gate = false;   // its output times sigmoid(gate · x) (Qwen2-MoE)
  bool shared_bias = false;   // on its projections (ERNIE 4.5)
  bool scale_inputs = false;  // a routed expert reads x times its weight, and its output counts once (Llama 4)
  bool output_bias = false;   // one bias [D] of what the layer returns (JetMoE)
  int64_t latent = 0;         // width of what routed experts read and write, between two projections; 0: the model's
  float clamp = 0, shared_clamp = 0;  // of routed and shared experts, as DenseFfnSpec's
  // The last so many of the router's experts give back what they read: they have no weights (LongCat-Flash's
  // zero-computation experts, arXiv:2509.01322 §2.1).
  int64_t identity_experts = 0;
  // What routed experts give is added to the stream at the end of the next block, and not here (the shortcut of
  // LongCat-Flash, §2.2): the next block has BlockSpec::adds_shortcut.
  bool shortcut = false;
  // The layer reads the stream itself, and norms what each part reads, and what it gives (Gemma 4's dense FFN beside
  // experts: it is the shared expert here). The router has a norm of its own (RouterSpec::input_norm).
  std::optional<NormSpec> shared_norm, shared_post_norm, experts_norm, experts_post_norm;

  int64_t experts_with_weights() const { return router.experts - identity_experts; }
};

/// How what a half of a block computes comes to the stream x: x = kept * x + added * f(norm(x)), or, with `normed`,
/// x = norm(x) first (MiniMax-01).
struct ResidualSpec {
  bool normed = false;
  float kept = 1, added = 1;

  bool operator==(const ResidualSpec&) const = default;
};

}  // namespace coterie::layers
