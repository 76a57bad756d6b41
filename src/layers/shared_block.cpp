#include "layers/shared_block.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

namespace coterie::layers {

SharedBlock::SharedBlock(const SharedBlockSpec& spec, int64_t width)
    : spec_(spec),
      width_(width),
      norm_(spec.norm, 2 * width),
      attention_(spec.attention, width, 2 * width),
      ffn_norm_(spec.ffn_norm, width),
      adapters_(spec.adapters.size()) {}

void SharedBlock::Adapter::visit(TensorVisitor& visitor, const std::string& path, int64_t inputs, int64_t rank,
                                 int64_t outputs) {
  visitor.matrix({path + ".down", Place::mixer}, rank, inputs, down);
  visitor.matrix({path + ".up", Place::mixer}, outputs, rank, up);
}

void SharedBlock::Adapter::add(ops::Context& context, tensor::ConstMatrix x, tensor::Matrix y) const {
  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix low = context.arena.matrix(x.rows, down.rows), added = context.arena.matrix(y.rows, y.cols);
  ops::matmul(context, x, down, nullptr, low);
  ops::matmul(context, low, up, nullptr, added);
  ops::add(context, added, y);
}

void SharedBlock::visit(TensorVisitor& visitor, const std::string& path) {
  norm_.visit(visitor, path + ".norm");
  attention_.visit(visitor, path + ".attention");
  ffn_norm_.visit(visitor, path + ".ffn_norm");
  visitor.linear(path + ".ffn.gate", Place::dense_ffn, spec_.ffn.hidden, width_, spec_.ffn.bias, gate_);
  visitor.linear(path + ".ffn.up", Place::dense_ffn, spec_.ffn.hidden, width_, spec_.ffn.bias, up_);
  visitor.linear(path + ".ffn.down", Place::dense_ffn, width_, spec_.ffn.hidden, spec_.ffn.bias, down_);
  const AttentionSpec& a = spec_.attention;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const std::string use = path + ".adapters." + std::to_string(spec_.adapters[i]);
    if (const int64_t rank = spec_.attention_adapter_rank; rank > 0) {
      adapters_[i].q.visit(visitor, use + ".q", 2 * width_, rank, a.heads * a.head_dim);
      adapters_[i].k.visit(visitor, use + ".k", 2 * width_, rank, a.kv_heads * a.head_dim);
      adapters_[i].v.visit(visitor, use + ".v", 2 * width_, rank, a.kv_heads * a.value_dim);
    }
    if (const int64_t rank = spec_.ffn_adapter_rank; rank > 0)
      adapters_[i].gate_up.visit(visitor, use + ".gate_up", width_, rank, 2 * spec_.ffn.hidden);
  }
}

const SharedBlock::Adapters& SharedBlock::adapters_of(int64_t use) const {
  const auto found = std::find(spec_.adapters.begin(), spec_.adapters.end(), use);
  base::require(found != spec_.adapters.end(), "shared block", "use {} is not of this block", use);
  return adapters_[static_cast<size_t>(found - spec_.adapters.begin())];
}

void SharedBlock::feed_forward(ops::Context& context, const Adapters& adapters, tensor::ConstMatrix x,
                               tensor::Matrix y) const {
  const tensor::ArenaScope scratch(context.arena);
  const int64_t hidden = spec_.ffn.hidden;
  const tensor::Matrix both = context.arena.matrix(x.rows, 2 * hidden);
  const tensor::Matrix gate = both.col_range(0, hidden), up = both.col_range(hidden, 2 * hidden);
  const std::array<ops::MatmulTarget, 2> projections = {
      {{gate_.weight, gate_.bias.data(), gate}, {up_.weight, up_.bias.data(), up}}};
  ops::matmul_each(context, x, projections);
  if (spec_.ffn_adapter_rank > 0) adapters.gate_up.add(context, x, both);
  ops::gate(context, spec_.ffn.activation, gate, up);
  ops::matmul(context, gate, down_.weight, down_.bias.data(), y);
}

void SharedBlock::forward(const Batch& batch, int64_t layer, int64_t use, tensor::ConstMatrix x,
                          tensor::Matrix y) const {
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  const Adapters& adapters = adapters_of(use);
  const tensor::Matrix both = context.arena.matrix(x.rows, 2 * width_);
  ops::copy(context, x, both.col_range(0, width_));
  ops::copy(context, batch.embedded, both.col_range(width_, 2 * width_));
  norm_.forward(context, both, both);
  attention_.forward(batch, layer, both, y, [&](tensor::Matrix q, tensor::Matrix k, tensor::Matrix v) {
    if (spec_.attention_adapter_rank == 0) return;
    adapters.q.add(context, both, q), adapters.k.add(context, both, k), adapters.v.add(context, both, v);
  });
  ffn_norm_.forward(context, y, y);
  feed_forward(context, adapters, y, y);
}

void SharedUse::visit(TensorVisitor& visitor, const std::string& path) {
  if (use_ == block_->first_use()) block_->visit(visitor, path + ".shared");
  visitor.matrix({path + ".shared_projection", Place::mixer}, width_, width_, projection_);
}

void SharedUse::forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix y) const {
  const tensor::ArenaScope scratch(batch.context.arena);
  const tensor::Matrix given = batch.context.arena.matrix(x.rows, width_);
  block_->forward(batch, layer, use_, x, given);
  ops::matmul(batch.context, given, projection_, nullptr, y);
}

}  // namespace coterie::layers
