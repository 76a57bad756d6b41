#include "layers/block.h"

#include "layers/step_share.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"

namespace coterie::layers {

namespace {

using Mixer = std::variant<Attention, LatentAttention, Mamba, Mamba2, DeltaRule, ShortConv, std::monostate, Lightning>;
using Ffn = std::variant<std::monostate, DenseFfn, Moe>;

Mixer make_mixer(const AttentionSpec& spec, int64_t width) { return Attention(spec, width); }
Mixer make_mixer(const LatentAttentionSpec& spec, int64_t width) { return LatentAttention(spec, width); }
Mixer make_mixer(const MambaSpec& spec, int64_t width) { return Mamba(spec, width); }
Mixer make_mixer(const Mamba2Spec& spec, int64_t width) { return Mamba2(spec, width); }
Mixer make_mixer(const DeltaRuleSpec& spec, int64_t width) { return DeltaRule(spec, width); }
Mixer make_mixer(const ShortConvSpec& spec, int64_t width) { return ShortConv(spec, width); }
Mixer make_mixer(const LightningSpec& spec, int64_t width) { return Lightning(spec, width); }
Mixer make_mixer(const NoMixerSpec&, int64_t) { return std::monostate(); }

Ffn make_ffn(const DenseFfnSpec& spec, int64_t width) { return DenseFfn(spec, width); }
Ffn make_ffn(const MoeSpec& spec, int64_t width) { return Moe(spec, width); }
Ffn make_ffn(const NoFfnSpec&, int64_t) { return std::monostate(); }

std::optional<Norm> make_norm(const std::optional<NormSpec>& spec, int64_t width) {
  if (!spec) return {};
  return Norm(*spec, width);
}

std::string name_of(const Attention&) { return "attention"; }
std::string name_of(const LatentAttention&) { return "latent"; }
std::string name_of(const Mamba&) { return "mamba"; }
std::string name_of(const Mamba2&) { return "mamba2"; }
std::string name_of(const DeltaRule&) { return "delta"; }
std::string name_of(const ShortConv&) { return "short_conv"; }
std::string name_of(const Lightning&) { return "lightning"; }

template <typename Kind>
constexpr bool kNothing = std::is_same_v<Kind, std::monostate>;

// Keyed so that mixers and FFNs of all layers draw apart.
void drop(const Batch& batch, int64_t layer, int64_t half, tensor::Matrix y) {
  if (batch.pass.dropout == 0) return;
  const tensor::ArenaScope scratch(batch.context.arena);
  ops::dropout(batch.context, y, batch.pass.dropout, name_rows(batch), static_cast<uint64_t>(2 * layer + half));
}

}  // namespace

Block::Block(const BlockSpec& spec, int64_t width, std::span<const std::shared_ptr<SharedBlock>> shared)
    : mixer_norm_(make_norm(spec.mixer_norm, width)),
      mixer_(std::visit([&](const auto& mixer) { return make_mixer(mixer, width); }, spec.mixer)),
      mixer_post_norm_(make_norm(spec.mixer_post_norm, width)),
      ffn_norm_(make_norm(spec.ffn_norm, width)),
      ffn_(std::visit([&](const auto& ffn) { return make_ffn(ffn, width); }, spec.ffn)),
      ffn_post_norm_(make_norm(spec.ffn_post_norm, width)),
      residual_multiplier_(spec.residual_multiplier),
      mixer_residual_(spec.mixer_residual),
      ffn_residual_(spec.ffn_residual),
      adds_shortcut_(spec.adds_shortcut),
      has_output_scale_(spec.output_scale) {
  if (spec.shared) shared_.emplace(shared[static_cast<size_t>(spec.shared->block)], spec.shared->use, width);
}

void Block::visit(TensorVisitor& visitor, const std::string& path) {
  if (shared_) shared_->visit(visitor, path);
  if (mixer_norm_) mixer_norm_->visit(visitor, path + ".mixer_norm");
  std::visit(
      [&](auto& mixer) {
        if constexpr (!kNothing<std::remove_cvref_t<decltype(mixer)>>)
          mixer.visit(visitor, path + "." + name_of(mixer));
      },
      mixer_);
  if (mixer_post_norm_) mixer_post_norm_->visit(visitor, path + ".mixer_post_norm");
  if (ffn_norm_) ffn_norm_->visit(visitor, path + ".ffn_norm");
  if (auto* moe = std::get_if<Moe>(&ffn_)) moe->visit(visitor, path + ".moe");
  if (auto* dense = std::get_if<DenseFfn>(&ffn_)) dense->visit(visitor, path + ".ffn");
  if (ffn_post_norm_) ffn_post_norm_->visit(visitor, path + ".ffn_post_norm");
  if (has_output_scale_)
    visitor.vector({.path = path + ".output_scale", .place = Place::norms, .buffer = true}, 1, output_scale_);
}

void Block::arrange() {
  if (auto* latent = std::get_if<LatentAttention>(&mixer_)) latent->arrange();
  if (auto* mamba = std::get_if<Mamba>(&mixer_)) mamba->arrange();
  if (auto* mamba = std::get_if<Mamba2>(&mixer_)) mamba->arrange();
  if (auto* delta = std::get_if<DeltaRule>(&mixer_)) delta->arrange();
  if (auto* conv = std::get_if<ShortConv>(&mixer_)) conv->arrange();
  if (auto* moe = std::get_if<Moe>(&ffn_)) moe->arrange();
}

void Block::join(ops::Context& context, const ResidualSpec& residual, tensor::ConstMatrix y, tensor::Matrix x) const {
  if (residual.kept != 1) ops::scale(context, x, residual.kept);
  ops::add(context, y, x, residual_multiplier_ * residual.added);
}

const Experts* Block::experts() const {
  const auto* moe = std::get_if<Moe>(&ffn_);
  return moe ? &moe->experts() : nullptr;
}

bool Block::has_router() const {
  const auto* moe = std::get_if<Moe>(&ffn_);
  return moe && moe->router();
}

ops::RoutingPlan Block::route(const Batch& batch, int64_t layer, tensor::ConstMatrix x) const {
  const tensor::ArenaScope scratch(batch.context.arena);
  if (ffn_norm_) {
    const tensor::Matrix normed = batch.context.arena.matrix(x.rows, x.cols);
    ffn_norm_->forward(batch.context, x, normed);
    x = normed;
  }
  return std::get<Moe>(ffn_).router()->forward(batch, layer, x);
}

void Block::mix(const Batch& batch, int64_t layer, tensor::Matrix x, tensor::Matrix h, tensor::Matrix y) const {
  ops::Context& context = batch.context;
  tensor::ConstMatrix mixer_input = x;
  if (shared_) {
    shared_->forward(batch, layer, x, h);
    ops::add(context, x, h);
    mixer_input = h;
  }
  if (mixer_norm_ && mixer_residual_.normed)
    mixer_norm_->forward(context, x, x);
  else if (mixer_norm_)
    mixer_norm_->forward(context, mixer_input, h), mixer_input = h;
  std::visit(
      [&](const auto& mixer) {
        if constexpr (!kNothing<std::remove_cvref_t<decltype(mixer)>>) mixer.forward(batch, layer, mixer_input, y);
      },
      mixer_);
  if (batch.pass.share) batch.pass.share->states_written(layer, batch.sequences);
  if (mixer_post_norm_) mixer_post_norm_->forward(context, y, y);
  if (batch.pass.observer) batch.pass.observer->mixer_output(layer, y);
  drop(batch, layer, 0, y);
  join(context, mixer_residual_, y, x);
}

void Block::forward(const Batch& batch, int64_t layer, tensor::Matrix x) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix h = context.arena.matrix(x.rows, x.cols);
  const tensor::Matrix y = context.arena.matrix(x.rows, x.cols);
  if (!std::holds_alternative<std::monostate>(mixer_)) mix(batch, layer, x, h, y);
  if (std::holds_alternative<std::monostate>(ffn_)) return;
  tensor::ConstMatrix ffn_input = x;
  if (ffn_norm_ && ffn_residual_.normed)
    ffn_norm_->forward(context, x, x);
  else if (ffn_norm_)
    ffn_norm_->forward(context, x, h), ffn_input = h;
  if (batch.pass.observer) batch.pass.observer->ffn_input(layer, ffn_input);
  if (const auto* moe = std::get_if<Moe>(&ffn_)) moe->forward(batch, layer, ffn_input, y);
  if (const auto* dense = std::get_if<DenseFfn>(&ffn_)) dense->forward(batch, ffn_input, y);
  if (ffn_post_norm_) ffn_post_norm_->forward(context, y, y);
  if (batch.pass.observer) batch.pass.observer->ffn_output(layer, y);
  drop(batch, layer, 1, y);
  join(context, ffn_residual_, y, x);
  if (adds_shortcut_) ops::add(context, batch.shortcut, x);
  if (has_output_scale_) ops::scale(context, x, output_scale_.data()[0]);
}

}  // namespace coterie::layers
