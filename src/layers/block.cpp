#include "layers/block.h"

#include "ops/elementwise.h"

namespace coterie::layers {

namespace {
std::variant<Attention> make_mixer(const BlockSpec& spec, int64_t width) {
  return Attention(std::get<AttentionSpec>(spec.mixer), width);
}
std::variant<DenseFfn, Moe> make_ffn(const BlockSpec& spec, int64_t width) {
  if (const auto* moe = std::get_if<MoeSpec>(&spec.ffn)) return Moe(*moe, width);
  return DenseFfn(std::get<DenseFfnSpec>(spec.ffn), width);
}
}  // namespace

Block::Block(const BlockSpec& spec, int64_t width)
    : mixer_norm_(spec.mixer_norm, width),
      mixer_(make_mixer(spec, width)),
      ffn_norm_(spec.ffn_norm, width),
      ffn_(make_ffn(spec, width)) {}

void Block::visit(TensorVisitor& visitor, const std::string& path) {
  mixer_norm_.visit(visitor, path + ".mixer_norm");
  std::get<Attention>(mixer_).visit(visitor, path + ".attention");
  ffn_norm_.visit(visitor, path + ".ffn_norm");
  if (auto* moe = std::get_if<Moe>(&ffn_))
    moe->visit(visitor, path + ".moe");
  else
    std::get<DenseFfn>(ffn_).visit(visitor, path + ".ffn");
}

void Block::arrange() {
  if (auto* moe = std::get_if<Moe>(&ffn_)) moe->arrange();
}

void Block::forward(const Batch& batch, int64_t layer, tensor::Matrix x) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix h = context.arena.matrix(x.rows, x.cols);
  const tensor::Matrix y = context.arena.matrix(x.rows, x.cols);

  mixer_norm_.forward(context, x, h);
  std::get<Attention>(mixer_).forward(batch, layer, h, y);
  ops::add(context, y, x);

  ffn_norm_.forward(context, x, h);
  if (const auto* moe = std::get_if<Moe>(&ffn_))
    moe->forward(batch, layer, h, y);
  else
    std::get<DenseFfn>(ffn_).forward(context, h, y);
  ops::add(context, y, x);
}

}  // namespace coterie::layers
