#include "surgery/same_model.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "layers/attention/rope.h"

namespace coterie::surgery {

namespace {

class FieldComparison {
 public:
  FieldComparison(std::string place, const DifferenceWords& words) : place_(std::move(place)), words_(words) {}

  template <typename T>
  void same(std::string_view field, const T& a, const T& b) const {
    if (a == b) return;
    if constexpr (std::is_arithmetic_v<T>)
      refuse(field, told(a, b));
    else
      refuse(field, fmt::format("one {}, another {}", words_.a, words_.b));
  }
  void near(std::string_view field, double a, double b) const {
    if (a == b || std::abs(a - b) <= 1e-6 * std::abs(a)) return;
    refuse(field, told(a, b));
  }
  template <typename T>
  bool both(std::string_view field, const std::optional<T>& a, const std::optional<T>& b) const {
    same(field, a.has_value(), b.has_value());
    return a.has_value();
  }
  [[noreturn]] void differ(std::string_view field, std::string_view a, std::string_view b) const {
    refuse(field, told(a, b));
  }
  [[noreturn]] void refuse(std::string_view field, const std::string& what) const {
    throw base::Error(base::ErrorKind::unsupported, place_, fmt::format("{} {}: {}", words_.cannot, field, what),
                      words_.hint);
  }

 private:
  template <typename T>
  std::string told(T a, T b) const {
    return fmt::format("{} {}, {} {}", a, words_.a, b, words_.b);
  }

  std::string place_;
  const DifferenceWords& words_;
};

std::string_view kind_name(const layers::DenseFfnSpec&) { return "dense"; }
std::string_view kind_name(const layers::MoeSpec&) { return "mixture of experts"; }
std::string_view kind_name(const layers::NoFfnSpec&) { return "none"; }
std::string_view kind_name(const layers::AttentionSpec&) { return "attention"; }
std::string_view kind_name(const layers::LatentAttentionSpec&) { return "latent attention"; }
std::string_view kind_name(const layers::MambaSpec&) { return "Mamba"; }
std::string_view kind_name(const layers::Mamba2Spec&) { return "Mamba-2"; }

std::string_view kind_name(const layers::DeltaRuleSpec&) { return "linear attention by the delta rule"; }
std::string_view kind_name(const layers::ShortConvSpec&) { return "short convolution"; }
std::string_view kind_name(const layers::LightningSpec&) { return "lightning attention"; }
std::string_view kind_name(const layers::NoMixerSpec&) { return "none"; }

template <typename Variant>
std::string_view kind_of(const Variant& layer) {
  return std::visit([](const auto& spec) { return kind_name(spec); }, layer);
}

void compare(const FieldComparison& c, std::string_view field, const std::optional<layers::NormSpec>& a,
             const std::optional<layers::NormSpec>& b) {
  if (!c.both(field, a, b)) return;
  c.same(field, a->kind, b->kind);
  c.near(field, static_cast<double>(a->eps), static_cast<double>(b->eps));
  c.same(field, a->bias, b->bias);
}

// By what they do: at the length they were made for and far beyond it.
void compare(const FieldComparison& c, const layers::RopeSpec& a, const layers::RopeSpec& b) {
  c.same("rotary dimensions", a.dims, b.dims);
  for (const int64_t length : {int64_t{0}, 8 * std::max<int64_t>(a.original_context, 1)}) {
    const ops::RopeTable x = layers::rope_table(a, length), y = layers::rope_table(b, length);
    for (size_t i = 0; i < x.frequency.size(); ++i)
      c.near("rotary frequencies", static_cast<double>(x.frequency[i]), static_cast<double>(y.frequency[i]));
    c.near("magnitude of the rotary embedding", static_cast<double>(x.magnitude), static_cast<double>(y.magnitude));
  }
}

void compare(const FieldComparison& c, const layers::RouterSpec& a, const layers::RouterSpec& b);
void compare(const FieldComparison& c, const layers::OutputGate& a, const layers::OutputGate& b) {
  c.same("gate of the output", a.shape, b.shape);
  if (a.shape != layers::OutputGate::Shape::none) c.same("gate of the output", a.activation, b.activation);
}

void compare(const FieldComparison& c, const layers::AttentionSpec& a, const layers::AttentionSpec& b) {
  compare(c, a.gate, b.gate);
  c.same("number of heads", a.heads, b.heads);
  c.same("number of key-value heads", a.kv_heads, b.kv_heads);
  c.same("head dimension", a.head_dim, b.head_dim);
  c.same("value dimension", a.value_dim, b.value_dim);
  c.near("scale of the scores", static_cast<double>(a.scale), static_cast<double>(b.scale));
  c.same("sliding window", a.window, b.window);
  c.near("softcap of the scores", static_cast<double>(a.softcap), static_cast<double>(b.softcap));
  c.same("sinks", a.sinks, b.sinks);
  c.same("bias of the queries", a.q_bias, b.q_bias);
  c.same("bias of the keys", a.k_bias, b.k_bias);
  c.same("bias of the values", a.v_bias, b.v_bias);
  c.same("bias of the output", a.o_bias, b.o_bias);
  c.same("norm of queries and keys", a.qk_norm, b.qk_norm);
  if (a.qk_norm != layers::AttentionSpec::QkNorm::none)
    c.near("norm of queries and keys", static_cast<double>(a.qk_norm_eps), static_cast<double>(b.qk_norm_eps));
  if (c.both("clipping of q, k and v", a.clip_qkv, b.clip_qkv))
    c.near("clipping of q, k and v", static_cast<double>(*a.clip_qkv), static_cast<double>(*b.clip_qkv));
  if (c.both("rotary embedding", a.rope, b.rope)) compare(c, *a.rope, *b.rope);
  c.same("order of norm and rotary embedding", a.qk_norm_after_rope, b.qk_norm_after_rope);
  c.same("chunk of attention", a.chunk, b.chunk);
  c.same("keys that serve as values", a.values_are_keys, b.values_are_keys);
  c.same("norm of the values", a.value_norm, b.value_norm);
  c.near("scale of the values", static_cast<double>(a.value_scale), static_cast<double>(b.value_scale));
  if (c.both("temperature of the queries", a.temperature, b.temperature)) {
    c.near("temperature of the queries", static_cast<double>(a.temperature->scale),
           static_cast<double>(b.temperature->scale));
    c.near("temperature of the queries", static_cast<double>(a.temperature->period),
           static_cast<double>(b.temperature->period));
  }
  if (c.both("experts of the attention", a.experts, b.experts)) compare(c, *a.experts, *b.experts);
}

void compare(const FieldComparison& c, const layers::LatentAttentionSpec& a, const layers::LatentAttentionSpec& b) {
  c.same("number of heads", a.heads, b.heads);
  c.same("rank of the queries", a.q_rank, b.q_rank);
  c.same("rank of keys and values", a.kv_rank, b.kv_rank);
  c.same("dimensions without positions", a.nope_dim, b.nope_dim);
  c.same("dimensions with positions", a.rope_dim, b.rope_dim);
  c.same("value dimension", a.value_dim, b.value_dim);
  c.near("scale of the scores", static_cast<double>(a.scale), static_cast<double>(b.scale));
  c.same("biases", a.bias, b.bias);
  c.near("norm of the latents", static_cast<double>(a.norm_eps), static_cast<double>(b.norm_eps));
  compare(c, a.gate, b.gate);
  c.near("scale of the latent", static_cast<double>(a.latent_scale), static_cast<double>(b.latent_scale));
  if (c.both("indexer", a.indexer, b.indexer)) {
    c.same("indexer of the layer", a.indexer->own, b.indexer->own);
    c.same("heads of the indexer", a.indexer->heads, b.indexer->heads);
    c.same("width of the indexer's heads", a.indexer->head_dim, b.indexer->head_dim);
    c.same("positions that the indexer chooses", a.indexer->top_k, b.indexer->top_k);
    c.same("order of the indexer's rotary dimensions", a.indexer->style, b.indexer->style);
  }
  c.same("positions", a.positions, b.positions);
  if (!a.positions) return;
  c.same("order of the rotary dimensions", a.rope.style, b.rope.style);
  compare(c, a.rope, b.rope);
}

void compare(const FieldComparison& c, const layers::MambaSpec& a, const layers::MambaSpec& b) {
  c.same("inner width", a.inner, b.inner);
  c.same("number of states", a.states, b.states);
  c.same("width of the convolution", a.conv_width, b.conv_width);
  c.same("rank of the time step", a.dt_rank, b.dt_rank);
  c.same("number of Mamba heads", a.heads, b.heads);
  c.same("activation of the mixer", a.activation, b.activation);
  c.same("bias of the convolution", a.conv_bias, b.conv_bias);
  c.same("biases of the projections", a.projection_bias, b.projection_bias);
  c.same("norms of dt, B and C", a.inner_norm, b.inner_norm);
  if (a.inner_norm != layers::MambaSpec::InnerNorm::none)
    c.near("norms of dt, B and C", static_cast<double>(a.inner_norm_eps), static_cast<double>(b.inner_norm_eps));
}

void compare(const FieldComparison& c, const layers::Mamba2Spec& a, const layers::Mamba2Spec& b) {
  c.same("number of Mamba heads", a.heads, b.heads);
  c.same("width of a Mamba head", a.head_dim, b.head_dim);
  c.same("number of states", a.states, b.states);
  c.same("number of groups", a.groups, b.groups);
  c.same("width of the convolution", a.conv_width, b.conv_width);
  c.same("activation of the mixer", a.activation, b.activation);
  c.same("bias of the convolution", a.conv_bias, b.conv_bias);
  c.same("biases of the projections", a.projection_bias, b.projection_bias);
  c.same("limits of the time step", a.dt_min, b.dt_min);
  c.same("limits of the time step", a.dt_max, b.dt_max);
  c.near("gated norm", static_cast<double>(a.norm_eps), static_cast<double>(b.norm_eps));
}

// The order of value heads is one of weights, which whoever writes them sees to.
void compare(const FieldComparison& c, const layers::DeltaRuleSpec& a, const layers::DeltaRuleSpec& b) {
  c.same("number of key heads", a.key_heads, b.key_heads);
  c.same("number of value heads", a.value_heads, b.value_heads);
  c.same("width of a key", a.key_dim, b.key_dim);
  c.same("width of a value", a.value_dim, b.value_dim);
  c.same("width of the convolution", a.conv_width, b.conv_width);
  c.same("activation of the mixer", a.activation, b.activation);
  c.same("projections of q, k and v", a.fused, b.fused);
  c.same("decay of the state", a.decay_by_key, b.decay_by_key);
  c.near("floor of the decay", static_cast<double>(a.decay_floor), static_cast<double>(b.decay_floor));
  c.same("rank of the decay", a.decay_rank, b.decay_rank);
  c.same("rank of the gate", a.gate_rank, b.gate_rank);
  c.same("gate of the mixer", a.gate, b.gate);
  c.near("norm of the mixer", static_cast<double>(a.norm_eps), static_cast<double>(b.norm_eps));
}

void compare(const FieldComparison& c, const layers::ShortConvSpec& a, const layers::ShortConvSpec& b) {
  c.same("width of the convolution", a.conv_width, b.conv_width);
  c.same("biases of the mixer", a.bias, b.bias);
}

void compare(const FieldComparison& c, const layers::LightningSpec& a, const layers::LightningSpec& b) {
  c.same("number of heads", a.heads, b.heads);
  c.same("head dimension", a.head_dim, b.head_dim);
  c.same("activation of the mixer", a.activation, b.activation);
  c.near("decay of the state", static_cast<double>(a.slope), static_cast<double>(b.slope));
  c.near("norm of the mixer", static_cast<double>(a.norm_eps), static_cast<double>(b.norm_eps));
}

void compare(const FieldComparison&, const layers::NoMixerSpec&, const layers::NoMixerSpec&) {}

void compare(const FieldComparison& c, const layers::DenseFfnSpec& a, const layers::DenseFfnSpec& b) {
  c.same("width of the FFN", a.hidden, b.hidden);
  c.same("activation of the FFN", a.activation, b.activation);
  c.same("gate of the FFN", a.gated, b.gated);
  c.same("biases of the FFN", a.bias, b.bias);
  c.near("clamp of the FFN", static_cast<double>(a.clamp), static_cast<double>(b.clamp));
}

void compare(const FieldComparison& c, const layers::RouterSpec& a, const layers::RouterSpec& b) {
  c.same("number of experts", a.experts, b.experts);
  c.same("number of experts for a token", a.experts_per_token, b.experts_per_token);
  c.same("score of the router", a.score, b.score);
  // Softmax over the chosen is softmax over all, renormalised.
  const auto form = [](const layers::RouterSpec& r) {
    const bool chosen =
        r.score == layers::RouterSpec::Score::softmax && r.order == layers::RouterSpec::Order::select_then_score;
    return std::pair(chosen || r.order == layers::RouterSpec::Order::score_then_select, chosen || r.renormalise);
  };
  c.same("order of scoring and choosing", form(a).first, form(b).first);
  c.same("renormalising of the experts' weights", form(a).second, form(b).second);
  // What is added to the sum elsewhere is far below any sum.
  c.same("floor of the sum of the experts' weights", a.renormalise_floor, b.renormalise_floor);
  if (a.renormalise_floor)
    c.near("floor of the sum of the experts' weights", a.renormalise_epsilon, b.renormalise_epsilon);
  c.same("hidden layer of the router", a.hidden, b.hidden);
  c.same("combination of the experts' outputs", a.combine, b.combine);
  c.same("bias of the router", a.bias, b.bias);
  c.same("bias of selection", a.selection_bias, b.selection_bias);
  c.near("softcap of the router", static_cast<double>(a.softcap), static_cast<double>(b.softcap));
  c.same("groups of experts", a.groups, b.groups);
  if (a.groups > 1) {
    c.same("groups of experts", a.groups_kept, b.groups_kept);
    c.same("score of a group", a.group_score, b.group_score);
  }
  if (c.both("norm of what the router reads", a.input_norm, b.input_norm))
    c.near("norm of what the router reads", static_cast<double>(*a.input_norm), static_cast<double>(*b.input_norm));
  c.same("weight of each expert's own", a.expert_scale, b.expert_scale);
  c.near("scale of the experts' weights", static_cast<double>(a.scale), static_cast<double>(b.scale));
  c.same("rule of selection", a.selection, b.selection);
  if (a.selection == layers::RouterSpec::Selection::sparsemixer)
    c.near("rule of selection", static_cast<double>(a.near_best), static_cast<double>(b.near_best));
}

void compare(const FieldComparison& c, const layers::MoeSpec& a, const layers::MoeSpec& b) {
  compare(c, a.router, b.router);
  c.same("width of an expert", a.hidden, b.hidden);
  c.same("activation of the experts", a.activation, b.activation);
  c.same("gate of the experts", a.gated, b.gated);
  c.same("biases of the experts", a.bias, b.bias);
  c.near("limit of the experts' SwiGLU", static_cast<double>(a.swiglu_limit), static_cast<double>(b.swiglu_limit));
  c.near("slope of the experts' SwiGLU", static_cast<double>(a.swiglu_alpha), static_cast<double>(b.swiglu_alpha));
  c.same("width of the shared expert", a.shared_hidden, b.shared_hidden);
  c.same("gate of the shared expert", a.shared_gate, b.shared_gate);
  c.same("biases of the shared expert", a.shared_bias, b.shared_bias);
  c.same("scaling of what experts read", a.scale_inputs, b.scale_inputs);
  c.same("bias of the experts' sum", a.output_bias, b.output_bias);
  c.same("latent width of the experts", a.latent, b.latent);
  c.near("clamp of the experts", static_cast<double>(a.clamp), static_cast<double>(b.clamp));
  c.near("clamp of the shared expert", static_cast<double>(a.shared_clamp), static_cast<double>(b.shared_clamp));
  c.same("experts without weights", a.identity_experts, b.identity_experts);
  c.same("shortcut of the experts", a.shortcut, b.shortcut);
  compare(c, "norm before the shared expert", a.shared_norm, b.shared_norm);
  compare(c, "norm after the shared expert", a.shared_post_norm, b.shared_post_norm);
  compare(c, "norm before the experts", a.experts_norm, b.experts_norm);
  compare(c, "norm after the experts", a.experts_post_norm, b.experts_post_norm);
}

void compare(const FieldComparison&, const layers::NoFfnSpec&, const layers::NoFfnSpec&) {}

template <typename Variant>
void compare_kinds(const FieldComparison& c, std::string_view field, const Variant& a, const Variant& b) {
  if (a.index() != b.index()) c.differ(field, kind_of(a), kind_of(b));
  std::visit([&](const auto& kind) { compare(c, kind, std::get<std::remove_cvref_t<decltype(kind)>>(b)); }, a);
}

}  // namespace

void require_same(const models::ModelSpec& model, const models::ModelSpec& read, std::string_view where,
                  const DifferenceWords& words) {
  const FieldComparison c(std::string(where), words);
  c.same("vocabulary", model.vocabulary, read.vocabulary);
  c.same("width", model.width, read.width);
  c.same("context", model.context, read.context);
  c.same("learned positions", model.learned_positions, read.learned_positions);
  c.same("tied embeddings", model.tied_embeddings, read.tied_embeddings);
  c.same("bias of the head", model.head_bias, read.head_bias);
  c.near("scale of the embeddings", static_cast<double>(model.embedding_multiplier),
         static_cast<double>(read.embedding_multiplier));
  c.near("scale of the logits", static_cast<double>(model.logits_scaling), static_cast<double>(read.logits_scaling));
  if (c.both("softcap of the logits", model.logits_softcap, read.logits_softcap))
    c.near("softcap of the logits", static_cast<double>(*model.logits_softcap),
           static_cast<double>(*read.logits_softcap));
  compare(c, "final norm", model.final_norm, read.final_norm);
  c.same("number of layers", model.blocks.size(), read.blocks.size());
  c.same("shared blocks", model.shared.size(), read.shared.size());
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    const models::BlockSpec &a = model.blocks[i], &b = read.blocks[i];
    const FieldComparison in_layer(fmt::format("{}: layer {}", where, i), words);
    compare(in_layer, "norm before the mixer", a.mixer_norm, b.mixer_norm);
    compare(in_layer, "norm after the mixer", a.mixer_post_norm, b.mixer_post_norm);
    compare(in_layer, "norm before the FFN", a.ffn_norm, b.ffn_norm);
    compare(in_layer, "norm after the FFN", a.ffn_post_norm, b.ffn_post_norm);
    in_layer.near("multiplier of the residual", static_cast<double>(a.residual_multiplier),
                  static_cast<double>(b.residual_multiplier));
    in_layer.same("residual stream", a.mixer_residual == b.mixer_residual && a.ffn_residual == b.ffn_residual, true);
    in_layer.same("scale of the layer's result", a.output_scale, b.output_scale);
    compare_kinds(in_layer, "kind of mixer", a.mixer, b.mixer);
    compare_kinds(in_layer, "kind of FFN", a.ffn, b.ffn);
  }
}

}  // namespace coterie::surgery
