#include "models/spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "layers/attention/indexer.h"
#include "layers/ssm/recurrent.h"

namespace coterie::models {

namespace {

// Far above any model and far below what would exhaust memory or overflow a product: a file that says more lies.
constexpr int64_t kSaneSize = int64_t{1} << 28, kSaneLayers = 1 << 16, kSaneExperts = 1 << 20;

void check_size(std::string_view where, std::string_view what, int64_t value, int64_t most = kSaneSize) {
  if (value < 1 || value > most)
    base::fail(base::ErrorKind::bad_input, where, "{} is {}: expected 1 to {}", what, value, most);
}

void check_rope(std::string_view where, const layers::RopeSpec& rope, int64_t head_dim) {
  if (rope.dims < 2 || rope.dims % 2 != 0 || rope.dims > head_dim)
    base::fail(base::ErrorKind::bad_input, where, "{} rotary dimensions in a head of {}: expected an even number",
               rope.dims, head_dim);
  if (rope.turning_dims < 0 || rope.turning_dims % 2 != 0 || rope.turning_dims > rope.dims)
    base::fail(base::ErrorKind::bad_input, where, "{} of {} rotary dimensions rotate: expected an even number",
               rope.turning_dims, rope.dims);
  if (!(rope.theta > 0) || !(rope.factor > 0))
    base::fail(base::ErrorKind::bad_input, where, "a rotary base of {} and scaling factor of {}: expected both above 0",
               rope.theta, rope.factor);
  if (rope.scaling == layers::RopeSpec::Scaling::dynamic && rope.dims == 2)
    base::fail(base::ErrorKind::bad_input, where, "dynamic rotary scaling of 2 dimensions is undefined");
}

void check_attention(std::string_view where, const layers::AttentionSpec& a) {
  check_size(where, "the number of attention heads", a.heads, 1 << 20);
  check_size(where, "the number of key-value heads", a.kv_heads, 1 << 20);
  check_size(where, "the head dimension", a.head_dim, 1 << 20);
  check_size(where, "the value dimension of a head", a.value_dim, 1 << 20);
  check_size(where, "the width of all heads", a.heads * std::max(a.head_dim, a.value_dim));
  if (a.heads % a.kv_heads != 0)
    base::fail(base::ErrorKind::bad_input, where, "{} attention heads are not a multiple of {} key-value heads",
               a.heads, a.kv_heads);
  if (a.window < 0) base::fail(base::ErrorKind::bad_input, where, "a sliding window of {} positions", a.window);
  if (a.chunk < 0) base::fail(base::ErrorKind::bad_input, where, "attention in chunks of {} positions", a.chunk);
  if (a.values_are_keys && (a.head_dim != a.value_dim || a.gate.shape != layers::OutputGate::Shape::none || a.experts))
    base::fail(base::ErrorKind::unsupported, where,
               "keys of {} that serve as values of {}: expected as wide, without a gate or experts of the attention",
               a.head_dim, a.value_dim);
  if (a.temperature && (!(a.temperature->period > 0) || !std::isfinite(a.temperature->scale)))
    base::fail(base::ErrorKind::bad_input, where, "a temperature of queries that grows by {} every {} positions",
               a.temperature->scale, a.temperature->period);
  if (a.experts) {
    layers::check(*a.experts, where);
    if (a.experts->capacity || a.experts->selection != layers::RouterSpec::Selection::top_k)
      base::fail(base::ErrorKind::unsupported, where, "experts of attention that are not the best k of a token");
    if (a.heads != a.experts->experts_per_token * a.kv_heads)
      base::fail(base::ErrorKind::bad_input, where,
                 "{} attention heads: expected {} experts per token times {} KV heads", a.heads,
                 a.experts->experts_per_token, a.kv_heads);
  }
  if (a.rope) check_rope(where, *a.rope, a.head_dim);
}

void check_latent(std::string_view where, const layers::LatentAttentionSpec& a) {
  check_size(where, "the number of attention heads", a.heads, 1 << 20);
  if (a.q_rank < 0) base::fail(base::ErrorKind::bad_input, where, "the rank of the queries is {}", a.q_rank);
  check_size(where, "the rank of keys and values", a.kv_rank);
  check_size(where, "the dimensions of a key without positions", a.nope_dim, 1 << 20);
  check_size(where, "the dimensions of a key with positions", a.rope_dim, 1 << 20);
  check_size(where, "the value dimension of a head", a.value_dim, 1 << 20);
  check_size(where, "the width of all heads", a.heads * std::max({a.head_dim(), a.value_dim, a.kv_rank + a.rope_dim}));
  if (a.positions) check_rope(where, a.rope, a.rope_dim);
  if (!a.indexer) return;
  check_size(where, "the number of the indexer's heads", a.indexer->heads, 1 << 20);
  check_size(where, "the width of the indexer's heads", a.indexer->head_dim, 1 << 20);
  check_size(where, "the positions that the indexer chooses", a.indexer->top_k);
  if (a.q_rank == 0)
    base::fail(base::ErrorKind::unsupported, where, "an indexer without a latent of the queries, which it reads");
  if (a.rope_dim > a.indexer->head_dim)
    base::fail(base::ErrorKind::bad_input, where, "{} rotary dimensions in an indexer's head of {}", a.rope_dim,
               a.indexer->head_dim);
}

void check_mamba(std::string_view where, const layers::MambaSpec& m) {
  check_size(where, "the inner width", m.inner);
  check_size(where, "the number of states", m.states, 1 << 20);
  check_size(where, "the width of the convolution", m.conv_width, 1 << 10);
  check_size(where, "the rank of the time step", m.dt_rank);
  check_size(where, "the number of Mamba heads", m.heads, 1 << 20);
  if (m.inner % m.heads != 0)
    base::fail(base::ErrorKind::bad_input, where, "an inner width of {} in {} Mamba heads", m.inner, m.heads);
}

void check_mamba(std::string_view where, const layers::Mamba2Spec& m) {
  check_size(where, "the number of Mamba heads", m.heads, 1 << 20);
  check_size(where, "the width of a Mamba head", m.head_dim, 1 << 20);
  check_size(where, "the inner width", m.inner());
  check_size(where, "the number of states", m.states, 1 << 20);
  check_size(where, "the number of groups", m.groups, 1 << 20);
  check_size(where, "the width of the convolution", m.conv_width, 1 << 10);
  if (m.heads % m.groups != 0)
    base::fail(base::ErrorKind::bad_input, where, "{} Mamba heads are not a multiple of {} groups", m.heads, m.groups);
  if (!(m.dt_min <= m.dt_max))
    base::fail(base::ErrorKind::bad_input, where, "time steps from {} to {}", m.dt_min, m.dt_max);
}

void check_delta(std::string_view where, const layers::DeltaRuleSpec& d) {
  check_size(where, "the number of key heads of linear attention", d.key_heads, 1 << 20);
  check_size(where, "the number of value heads of linear attention", d.value_heads, 1 << 20);
  check_size(where, "the width of a key of linear attention", d.key_dim, 1 << 20);
  check_size(where, "the width of a value of linear attention", d.value_dim, 1 << 20);
  check_size(where, "the width of keys and values of linear attention", d.conv_channels());
  check_size(where, "the state of linear attention", d.value_width() * d.key_dim, int64_t{1} << 32);
  check_size(where, "the width of the convolution", d.conv_width, 1 << 10);
  if (d.value_heads % d.key_heads != 0)
    base::fail(base::ErrorKind::bad_input, where,
               "{} value heads of linear attention are not a multiple of {} key heads", d.value_heads, d.key_heads);
  if (d.decay_rank < 0 || d.gate_rank < 0 || !(d.decay_floor <= 0) || !std::isfinite(d.decay_floor))
    base::fail(base::ErrorKind::bad_input, where, "ranks of {} and {} and a floor of {} of the decay", d.decay_rank,
               d.gate_rank, d.decay_floor);
}

void check_lightning(std::string_view where, const layers::LightningSpec& l) {
  check_size(where, "the number of heads of linear attention", l.heads, 1 << 20);
  check_size(where, "the width of a head of linear attention", l.head_dim, 1 << 20);
  check_size(where, "the width of linear attention", 3 * l.width());
  if (!(l.slope > 0) || !std::isfinite(l.slope))
    base::fail(base::ErrorKind::bad_input, where, "a slope of {} of linear attention's decay", l.slope);
}

// Activations fall at most 0.3 below zero.
void check_clamp(std::string_view where, float clamp) {
  if (clamp != 0 && !(clamp >= 0.5f))
    base::fail(base::ErrorKind::bad_input, where, "halves of an FFN clamped to {}: expected 0.5 or more, or 0 for none",
               clamp);
}

void check_moe(std::string_view where, const ModelSpec& spec, size_t layer, const layers::MoeSpec& moe) {
  check_size(where, "the number of experts", moe.router.experts, kSaneExperts);
  check_size(where, "the width of an expert", moe.hidden);
  if (moe.latent != 0) check_size(where, "the latent width of the experts", moe.latent);
  layers::check(moe.router, where);
  check_clamp(where, moe.clamp), check_clamp(where, moe.shared_clamp);
  if (moe.identity_experts < 0 || moe.identity_experts >= moe.router.experts)
    base::fail(base::ErrorKind::bad_input, where, "{} of {} experts without weights: expected at least one with",
               moe.identity_experts, moe.router.experts);
  if (moe.identity_experts > 0 && (moe.scale_inputs || moe.latent > 0))
    base::fail(base::ErrorKind::unsupported, where, "experts without weights beside weighted inputs or a latent");
  if (moe.shortcut && (moe.shared_hidden == 0 || layer + 1 >= spec.blocks.size() || moe.shared_gate))
    base::fail(base::ErrorKind::unsupported, where,
               "a shortcut of routed experts needs a shared expert without a gate and a block after it");
  if (moe.shortcut != (layer + 1 < spec.blocks.size() && spec.blocks[layer + 1].adds_shortcut))
    base::fail(base::ErrorKind::bad_input, where, "a shortcut of routed experts that the next block does not add");
}

void check_shared(std::string_view where, const ModelSpec& spec, const layers::SharedUseSpec& shared) {
  if (shared.block < 0 || shared.block >= static_cast<int64_t>(spec.shared.size()))
    base::fail(base::ErrorKind::bad_input, where, "uses shared block {} of {}", shared.block, spec.shared.size());
  check_size(where, "the width of the shared FFN", spec.shared[static_cast<size_t>(shared.block)].ffn.hidden);
}

}  // namespace

void check(const ModelSpec& spec, std::string_view where) {
  if (!(spec.final_norm.eps >= 0) || !std::isfinite(spec.final_norm.eps))
    base::fail(base::ErrorKind::bad_input, where, "a norm with epsilon {}: expected 0 or more", spec.final_norm.eps);
  check_size(where, "the vocabulary", spec.vocabulary);
  check_size(where, "the model width", spec.width);
  check_size(where, "the number of layers", static_cast<int64_t>(spec.blocks.size()), kSaneLayers);
  if (spec.learned_positions != 0) {
    check_size(where, "the number of learned positions", spec.learned_positions);
    if (spec.context > spec.learned_positions)
      base::fail(base::ErrorKind::bad_input, where, "a context of {} positions, of which {} are learned", spec.context,
                 spec.learned_positions);
  }
  double parameters = 0;  // roughly
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const std::string place = fmt::format("{}: layer {}", where, i);
    if (const auto& shared = spec.blocks[i].shared) check_shared(place, spec, *shared);
    if (const auto* attention = attention_of(spec, spec.blocks[i])) check_attention(place, *attention);
    if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&spec.blocks[i].mixer))
      check_latent(place, *latent);
    if (const auto* mamba = std::get_if<layers::MambaSpec>(&spec.blocks[i].mixer)) check_mamba(place, *mamba);
    if (const auto* mamba = std::get_if<layers::Mamba2Spec>(&spec.blocks[i].mixer)) check_mamba(place, *mamba);
    if (const auto* delta = std::get_if<layers::DeltaRuleSpec>(&spec.blocks[i].mixer)) check_delta(place, *delta);
    if (const auto* lightning = std::get_if<layers::LightningSpec>(&spec.blocks[i].mixer))
      check_lightning(place, *lightning);
    if (const auto* conv = std::get_if<layers::ShortConvSpec>(&spec.blocks[i].mixer))
      check_size(place, "the width of the convolution", conv->conv_width, 1 << 10);
    if (const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn)) {
      check_moe(place, spec, i, *moe);
      parameters +=
          static_cast<double>(moe->router.experts) * static_cast<double>(moe->hidden) * static_cast<double>(spec.width);
    }
    if (const auto* dense = std::get_if<layers::DenseFfnSpec>(&spec.blocks[i].ffn)) {
      check_size(place, "the width of the FFN", dense->hidden);
      check_clamp(place, dense->clamp);
      parameters += static_cast<double>(dense->hidden) * static_cast<double>(spec.width);
    }
    parameters += static_cast<double>(spec.width) * static_cast<double>(spec.width);
  }
  if (parameters > 0x1p56)
    base::fail(base::ErrorKind::bad_input, where, "more than {:.0g} parameters: the sizes cannot be right", parameters);
}

const layers::AttentionSpec* attention_of(const ModelSpec& spec, const BlockSpec& block) {
  if (block.shared) return &spec.shared.at(static_cast<size_t>(block.shared->block)).attention;
  return std::get_if<layers::AttentionSpec>(&block.mixer);
}

const layers::RopeSpec* rope_of(const ModelSpec& spec, const BlockSpec& block) {
  if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer))
    return latent->positions ? &latent->rope : nullptr;
  const layers::AttentionSpec* attention = attention_of(spec, block);
  return attention && attention->rope ? &*attention->rope : nullptr;
}

std::vector<int64_t> state_floats(const ModelSpec& spec) {
  std::vector<int64_t> floats;
  for (const BlockSpec& block : spec.blocks) {
    floats.push_back(0);
    if (const auto* mamba = std::get_if<layers::MambaSpec>(&block.mixer)) floats.back() = layers::state_floats(*mamba);
    if (const auto* mamba = std::get_if<layers::Mamba2Spec>(&block.mixer)) floats.back() = layers::state_floats(*mamba);
    if (const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer))
      floats.back() = layers::state_floats(*delta);
    if (const auto* lightning = std::get_if<layers::LightningSpec>(&block.mixer))
      floats.back() = layers::state_floats(*lightning);
    if (const auto* conv = std::get_if<layers::ShortConvSpec>(&block.mixer))
      floats.back() = layers::state_floats(*conv, spec.width);
  }
  return floats;
}

std::vector<int64_t> cache_block_bytes(const ModelSpec& spec, tensor::DType cache_dtype) {
  std::vector<int64_t> bytes;
  for (const BlockSpec& block : spec.blocks) {
    const layers::AttentionSpec* attention = attention_of(spec, block);
    bytes.push_back(attention ? layers::cache_layout(*attention, cache_dtype).block_bytes() : 0);
    if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer))
      bytes.back() = layers::cache_layout(*latent, cache_dtype).block_bytes() +
                     layers::index_layout(*latent, cache_dtype).block_bytes();
  }
  return bytes;
}

}  // namespace coterie::models
