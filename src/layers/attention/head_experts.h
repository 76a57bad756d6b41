#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layers/batch.h"
#include "layers/moe/router.h"
#include "layers/specs.h"
#include "layers/tensor_list.h"
#include "ops/moe/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// The experts of a mixture of attention heads (AttentionSpec::experts): for each token a router chooses K of E, each
/// with a projection to one query for every KV head and one of what was attended to back to the model's width.
class HeadExperts {
 public:
  HeadExperts(const AttentionSpec& spec, int64_t width);

  /// Routes x [N, D] and writes its queries: q [N, H * head_dim], the K queries of a KV head side by side.
  ops::RoutingPlan queries(const Batch& batch, int64_t layer, tensor::ConstMatrix x, tensor::Matrix q) const;
  /// y[t] = bias + Σ over the plan's slots of t: weight * out_e · a[t, e]. a [N, H * value_dim] in the order of q.
  void output(const Batch& batch, const ops::RoutingPlan& plan, tensor::ConstMatrix a, tensor::Matrix y) const;
  /// path.router, path.experts.q [E, KV * head_dim, D], path.experts.o [E, D, KV * value_dim], path.experts.bias [D].
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  AttentionSpec spec_;
  int64_t width_;
  Router router_;
  std::vector<tensor::Weight> q_, o_;  // [E]
  Vector bias_;
};

}  // namespace coterie::layers
