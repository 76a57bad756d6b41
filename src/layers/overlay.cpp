#include "layers/overlay.h"

#include <vector>

#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

namespace coterie::layers {

void lay_over(const Batch& batch, tensor::ConstMatrix x, const Overlay& overlay, const float* bias, tensor::Matrix y) {
  if (!overlay) return;
  ops::Context& context = batch.context;
  const tensor::ArenaScope scratch(context.arena);
  if (overlay.dropout > 0 && batch.pass.training) {
    const tensor::Matrix dropped = context.arena.matrix(x.rows, x.cols);
    ops::copy(context, x, dropped);
    ops::dropout(context, dropped, overlay.dropout, name_rows(batch), overlay.place);
    x = dropped;
  }
  ops::add_low_rank(context, x, overlay.low_rank, y);
  if (overlay.magnitude) ops::scale_columns(context, y, overlay.magnitude, overlay.norm, bias);
}

void project_each(const Batch& batch, tensor::ConstMatrix x, std::span<const Projection> projections) {
  std::vector<ops::MatmulTarget> targets;
  for (const Projection& p : projections)
    targets.push_back({p.linear.weight, p.linear.overlay.magnitude ? nullptr : p.linear.bias.data(), p.y});
  ops::matmul_each(batch.context, x, targets);
  for (const Projection& p : projections) lay_over(batch, x, p.linear.overlay, p.linear.bias.data(), p.y);
}

void project(const Batch& batch, tensor::ConstMatrix x, const Linear& linear, tensor::Matrix y) {
  const Projection one{linear, y};
  project_each(batch, x, {&one, 1});
}

}  // namespace coterie::layers
