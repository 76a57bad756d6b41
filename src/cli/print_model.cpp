#include "cli/print_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/plural.h"
#include "cli/print_numbers.h"
#include "cli/print_router.h"

namespace coterie::cli {

namespace {

std::string_view words(ops::Activation activation) {
  switch (activation) {
    case ops::Activation::silu: return "SiLU";
    case ops::Activation::gelu: return "GELU";
    case ops::Activation::gelu_tanh: return "GELU (tanh)";
    case ops::Activation::relu: return "ReLU";
    case ops::Activation::relu2: return "squared ReLU";
    case ops::Activation::identity: return "no activation";
    case ops::Activation::sigmoid: return "sigmoid";
    case ops::Activation::softplus: return "softplus";
  }
  return "?";
}

std::string words(const layers::NormSpec& norm) {
  return fmt::format("{} (eps {:g})", norm.kind == layers::NormSpec::Kind::rms ? "RMSNorm" : "LayerNorm", norm.eps);
}

std::string words(const layers::RopeSpec& rope, int64_t head_dim) {
  using Scaling = layers::RopeSpec::Scaling;
  std::string text = fmt::format("rotary positions, base {}", plain(rope.theta));
  if (rope.turning_dims > 0)
    text += fmt::format(", on {} of {} dimensions, the others at frequency 0", rope.turning_dims, rope.dims);
  if (rope.dims != head_dim) text += fmt::format(", on {} of {} dimensions", rope.dims, head_dim);
  switch (rope.scaling) {
    case Scaling::none: break;
    case Scaling::linear: text += fmt::format(", linear scaling by {:g}", rope.factor); break;
    case Scaling::dynamic: text += fmt::format(", dynamic scaling by {:g}", rope.factor); break;
    case Scaling::llama3: text += fmt::format(", llama3 scaling by {:g}", rope.factor); break;
    case Scaling::yarn: text += fmt::format(", YaRN scaling by {:g}", rope.factor); break;
    case Scaling::longrope:
      text += fmt::format(", LongRoPE: one set of frequencies up to {} tokens, another for longer sequences",
                          rope.original_context);
      if (rope.short_magnitude != 1 || rope.long_magnitude != 1)
        text += fmt::format(", of magnitude {:g} and {:g}", rope.short_magnitude, rope.long_magnitude);
      break;
  }
  return text;
}

std::string words(const layers::OutputGate& gate) {
  using Shape = layers::OutputGate::Shape;
  if (gate.shape == Shape::none) return "";
  return fmt::format("; output times {} of a gate for each {}", words(gate.activation),
                     gate.shape == Shape::per_head ? "head" : "channel");
}

std::string words(const layers::AttentionSpec& attention) {
  std::string text = fmt::format("attention: {} query heads of {}", attention.heads, attention.head_dim);
  text += attention.kv_heads == attention.heads ? ", each with its own keys and values"
                                                : fmt::format(" over {} key/value heads ({} queries share one)",
                                                              attention.kv_heads, attention.heads / attention.kv_heads);
  if (attention.value_dim != attention.head_dim) text += fmt::format(", values of {}", attention.value_dim);
  text += attention.rope ? "; " + words(*attention.rope, attention.head_dim) : "; no rotary positions";
  if (attention.window > 0) text += fmt::format("; sliding window of {}", attention.window);
  if (const auto usual = 1 / std::sqrt(static_cast<double>(attention.head_dim));
      std::abs(static_cast<double>(attention.scale) - usual) > 1e-6 * usual)
    text += fmt::format("; scores are q·k times {:g}", attention.scale);
  if (attention.softcap > 0) text += fmt::format("; scores squeezed to ±{:g} by tanh", attention.softcap);
  if (attention.sinks) text += "; a sink for each head takes part in its softmax and adds nothing";
  using QkNorm = layers::AttentionSpec::QkNorm;
  if (attention.qk_norm == QkNorm::per_head) text += "; queries and keys normed per head";
  if (attention.qk_norm == QkNorm::full_width) text += "; queries and keys normed over their width";
  if (attention.values_are_keys) text += "; values are the keys before their norm and positions";
  if (attention.value_norm) text += "; values normed per head";
  if (attention.value_scale != 1) text += fmt::format("; values times {:g}", attention.value_scale);
  if (attention.clip_qkv) text += fmt::format("; q, k, v clipped to ±{:g}", *attention.clip_qkv);
  text += words(attention.gate);
  std::string biases;
  for (const auto& [has, letter] : {std::pair(attention.q_bias, "q"), std::pair(attention.k_bias, "k"),
                                    std::pair(attention.v_bias, "v"), std::pair(attention.o_bias, "output")})
    if (has) biases += (biases.empty() ? "" : ", ") + std::string(letter);
  if (!biases.empty()) text += "; bias on " + biases;
  return text;
}

std::string words(const layers::LatentAttentionSpec& mla) {
  std::string text = fmt::format(
      "latent attention (MLA): {} heads; keys of {} + {} dimensions and values of {} from a latent of {}, which is "
      "what "
      "the cache holds, with the {} rotary dimensions all heads share",
      mla.heads, mla.nope_dim, mla.rope_dim, mla.value_dim, mla.kv_rank, mla.rope_dim);
  if (mla.q_rank > 0) text += fmt::format("; queries from a latent of {}", mla.q_rank);
  text += mla.positions ? "; " + words(mla.rope, mla.rope_dim) : "; no positions";
  text += words(mla.gate);
  if (mla.latent_scale != 1) text += fmt::format("; the latent times {:.4g}", mla.latent_scale);
  if (mla.indexer && mla.indexer->own)
    text += fmt::format("; an indexer of {} heads of {} chooses the {} positions that a token sees", mla.indexer->heads,
                        mla.indexer->head_dim, mla.indexer->top_k);
  if (mla.indexer && !mla.indexer->own)
    text += fmt::format("; a token sees the {} positions that the last indexer before chose", mla.indexer->top_k);
  // YaRN's second correction (DeepSeek): the softmax is sharpened as well.
  if (const float plain_scale = 1 / std::sqrt(static_cast<float>(mla.head_dim()));
      std::abs(mla.scale - plain_scale) > 1e-6f * plain_scale)
    text += fmt::format(", scores times {:.4g}", mla.scale / plain_scale);
  if (mla.bias) text += "; bias on its outer projections";
  return text;
}

std::string words(const layers::MambaSpec& mamba) {
  std::string text = fmt::format("Mamba: {} channels of {} states, a convolution over {} tokens, time steps of rank {}",
                                 mamba.inner, mamba.states, mamba.conv_width, mamba.dt_rank);
  if (mamba.heads > 1) text += fmt::format(", in {} heads", mamba.heads);
  using InnerNorm = layers::MambaSpec::InnerNorm;
  if (mamba.inner_norm != InnerNorm::none) text += "; time step, B and C normed";
  if (mamba.inner_norm == InnerNorm::plain) text += " without weights";
  if (mamba.projection_bias) text += "; bias on its projections";
  return text;
}

std::string words(const layers::Mamba2Spec& mamba) {
  std::string text =
      fmt::format("Mamba-2: {} heads of {} channels and {} states, a convolution over {} tokens, B and C shared by {}",
                  mamba.heads, mamba.head_dim, mamba.states, mamba.conv_width,
                  mamba.groups == 1 ? std::string("all heads") : fmt::format("{} groups of heads", mamba.groups));
  if (mamba.dt_min > 0 || std::isfinite(mamba.dt_max))
    text += fmt::format("; time steps from {:g} to {:g}", mamba.dt_min, mamba.dt_max);
  if (mamba.projection_bias) text += "; bias on its projections";
  return text;
}

std::string words(const layers::DeltaRuleSpec& d) {
  std::string text = fmt::format(
      "linear attention by the gated delta rule: {} value heads of {} over {} key heads of {}, a convolution over {} "
      "tokens, a decay for each {}",
      d.value_heads, d.value_dim, d.key_heads, d.key_dim, d.conv_width, d.decay_by_key ? "channel of a key" : "head");
  if (d.decay_floor < 0) text += fmt::format(", whose logarithm is at least {:g}", d.decay_floor);
  return text + fmt::format("; the result normed per head, times {} of a gate", words(d.gate));
}

std::string words(const layers::ShortConvSpec& conv) {
  return fmt::format("gated short convolution over {} tokens{}", conv.conv_width, conv.bias ? ", with biases" : "");
}

std::string words(const layers::LightningSpec& l) {
  return fmt::format(
      "lightning attention: {} heads of {}, linear, with a state that decays by a constant of the head; the result "
      "normed over all heads, times sigmoid of a gate",
      l.heads, l.head_dim);
}

std::string words(const layers::NoMixerSpec&) { return "no mixer"; }

std::string activation_name(ops::Activation activation, bool gated) {
  if (gated && activation == ops::Activation::silu) return "SwiGLU";
  return fmt::format("{}{}", words(activation), gated ? ", gated" : "");
}

std::vector<std::string> lines(const layers::DenseFfnSpec& ffn) {
  return {fmt::format("dense FFN of width {} ({}{}){}", ffn.hidden, activation_name(ffn.activation, ffn.gated),
                      ffn.clamp > 0 ? fmt::format(", halves clamped to {:g}", ffn.clamp) : std::string(),
                      ffn.bias ? ", with biases" : "")};
}

std::vector<std::string> lines(const layers::SharedBlockSpec& block, const models::ModelSpec& spec) {
  std::vector<std::string> out = {
      spec.shared.size() == 1 ? std::string("begin with one transformer block, stored once")
                              : fmt::format("begin with a transformer block, {} of them in turn{}", spec.shared.size(),
                                            spec.tied_embeddings ? ", each stored once" : "")};
  out.push_back("reads the residual stream beside the embedded tokens; " + words(block.attention));
  out.push_back(lines(block.ffn).front());
  if (block.attention_adapter_rank > 0 || block.ffn_adapter_rank > 0)
    out.push_back(fmt::format("adapters of rank {} for each use on {}", block.ffn_adapter_rank,
                              block.attention_adapter_rank > 0 ? "q, k, v, gate and up" : "gate and up"));
  return out;
}

std::vector<std::string> lines(const layers::NoFfnSpec&) { return {"no FFN"}; }

std::vector<std::string> lines(const layers::MoeSpec& moe) {
  std::vector<std::string> out = {fmt::format("{} experts of width {} ({}), {} for each token", moe.router.experts,
                                              moe.hidden, activation_name(moe.activation, moe.gated),
                                              moe.router.experts_per_token)};
  if (moe.swiglu_limit > 0)
    out.push_back(fmt::format("its SwiGLU is clamped: g · sigmoid({:g} g) · (u + 1), g at most {:g}, u within ±{:g}",
                              moe.swiglu_alpha, moe.swiglu_limit, moe.swiglu_limit));
  if (moe.bias) out.push_back("biases on the experts' projections");
  if (moe.identity_experts > 0)
    out.push_back(
        fmt::format("the last {} of them give back what they read and have no weights", moe.identity_experts));
  if (moe.clamp > 0) out.push_back(fmt::format("the halves of an expert are clamped to {:g}", moe.clamp));
  if (moe.shortcut) out.push_back("what they give is added at the end of the next block");
  if (moe.latent > 0)
    out.push_back(fmt::format("experts read and write {} dimensions, between two projections", moe.latent));
  if (moe.shared_norm)
    out.push_back(fmt::format("a dense FFN of width {} beside them, each with norms of its own before and after",
                              moe.shared_hidden));
  else if (moe.shared_hidden > 0)
    out.push_back(fmt::format("a shared expert of width {} that every token uses{}", moe.shared_hidden,
                              moe.shared_gate ? ", times sigmoid(gate · x)" : ""));
  out.push_back("router: " + router_map(moe.router) + "; " + router_formula(moe.router));
  if (const std::string training = router_in_training(moe.router); !training.empty()) out.push_back(training);
  return out;
}

}  // namespace

std::string ranges(const std::vector<int64_t>& ascending) {
  std::string text;
  for (size_t i = 0; i < ascending.size();) {
    size_t j = i;
    while (j + 1 < ascending.size() && ascending[j + 1] == ascending[j] + 1) ++j;
    text += text.empty() ? "" : ", ";
    text += i == j ? std::to_string(ascending[i]) : fmt::format("{}-{}", ascending[i], ascending[j]);
    i = j + 1;
  }
  return text;
}

std::vector<std::string> describe(const models::ModelSpec& spec) {
  std::vector<std::string> out;
  out.push_back(fmt::format("{}: {} blocks of width {}, vocabulary {}, context {}", spec.family.shown(),
                            spec.blocks.size(), spec.width, grouped(spec.vocabulary), grouped(spec.context)));
  out.push_back(
      fmt::format("{}; {}", words(spec.final_norm),
                  spec.tied_embeddings ? "the output head is the input embedding" : "an output head of its own") +
      (spec.head_bias ? ", with a bias" : ""));

  std::string multipliers;
  const auto multiplier = [&](bool present, const std::string& words) {
    if (present) multipliers += (multipliers.empty() ? "" : ", ") + words;
  };
  const float residual = spec.blocks.front().residual_multiplier;
  multiplier(spec.embedding_multiplier != 1, fmt::format("embeddings times {:g}", spec.embedding_multiplier));
  multiplier(residual != 1, fmt::format("what a block adds times {:g}", residual));
  multiplier(spec.logits_scaling != 1, fmt::format("logits divided by {:g}", spec.logits_scaling));
  multiplier(spec.logits_softcap.has_value(),
             fmt::format("logits squeezed to ±{:g} by tanh", spec.logits_softcap.value_or(0)));
  if (!multipliers.empty()) out.push_back(multipliers);
  const layers::BlockSpec& first = spec.blocks.front();
  if (first.mixer_post_norm || first.ffn_post_norm)
    out.push_back(first.mixer_norm ? "norms before and after attention and FFN" : "norms after attention and FFN only");

  // Layers whose sentences are equal are equal as far as a reader is told.
  std::vector<std::pair<std::vector<std::string>, std::vector<int64_t>>> kinds;
  const auto add = [&](std::vector<std::string> sentences, size_t layer) {
    auto same = std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) { return kind.first == sentences; });
    if (same == kinds.end()) same = kinds.insert(kinds.end(), {std::move(sentences), {}});
    same->second.push_back(static_cast<int64_t>(layer));
  };
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (const auto& use = spec.blocks[i].shared) add(lines(spec.shared[static_cast<size_t>(use->block)], spec), i);
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    add({std::visit([](const auto& mixer) { return words(mixer); }, spec.blocks[i].mixer)}, i);
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    add(std::visit([](const auto& ffn) { return lines(ffn); }, spec.blocks[i].ffn), i);
  for (const auto& [sentences, layers] : kinds) {
    const bool all = layers.size() == spec.blocks.size();
    const std::string where =
        all ? "" : fmt::format("{} {}: ", base::noun(std::ssize(layers), "layer"), ranges(layers));
    out.push_back(where + sentences.front());
    for (size_t i = 1; i < sentences.size(); ++i) out.push_back("  " + sentences[i]);
  }
  return out;
}

}  // namespace coterie::cli
