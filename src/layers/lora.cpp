#include "layers/lora.h"

#include <vector>

#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

namespace coterie::layers {

void add_lora(const Batch& batch, tensor::ConstMatrix x, const Lora& lora, const float* bias, tensor::Matrix y) {
  if (!lora) return;
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  if (lora.dropout > 0 && batch.pass.training) {
    const tensor::Matrix dropped = context.arena.matrix(x.rows, x.cols);
    ops::copy(context, x, dropped);
    ops::dropout(context, dropped, lora.dropout, name_rows(batch), lora.place);
    x = dropped;
  }
  ops::add_low_rank(context, x, lora.low_rank, y);
  if (lora.magnitude) ops::scale_columns(context, y, lora.magnitude, lora.norm, bias);
}

void project_each(const Batch& batch, tensor::ConstMatrix x, std::span<const Projection> projections) {
  std::vector<ops::MatmulTarget> targets;
  for (const Projection& p : projections)
    targets.push_back({p.linear.weight, p.linear.lora.magnitude ? nullptr : p.linear.bias.data(), p.y});
  ops::matmul_each(batch.context, x, targets);
  for (const Projection& p : projections) add_lora(batch, x, p.linear.lora, p.linear.bias.data(), p.y);
}

void project(const Batch& batch, tensor::ConstMatrix x, const Linear& linear, tensor::Matrix y) {
  const Projection one{linear, y};
  project_each(batch, x, {&one, 1});
}

}  // namespace coterie::layers
