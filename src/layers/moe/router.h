#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "layers/batch.h"
#include "layers/moe/router_spec.h"
#include "layers/tensor_list.h"
#include "ops/plan.h"
#include "tensor/view.h"

namespace coterie::layers {

/// Throws bad_input, naming the field, for a router that cannot be: K outside [1, E], a temperature that is not above
/// zero, a scale that is not finite.
void check(const RouterSpec& spec, std::string_view where);

/// One token's choice by the rule of `spec`, from its logits [E]: writes K expert ids, best first, and what each
/// expert's output is multiplied by. Ties go to the lower index. `scores` [E] is scratch. All arithmetic in f32.
/// Selection::sample draws from Philox keyed by (key, layer, position), whatever the batch.
void choose(const RouterSpec& spec, const float* logits, uint64_t key, int64_t layer, int64_t position, float* scores,
            int32_t* ids, float* weights);

/// Decides which experts a token goes to.
class Router {
 public:
  Router(const RouterSpec& spec, int64_t width) : spec_(spec), width_(width) {}

  /// x [N, D]. Evaluated with f32 weights and f32 products, whatever the batch's precision.
  ops::RoutingPlan forward(const Batch& batch, int64_t layer, tensor::ConstMatrix x) const;
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  RouterSpec spec_;
  int64_t width_;
  tensor::Weight weight_;  // [E, D]
};

}  // namespace coterie::layers
