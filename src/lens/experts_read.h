#pragma once

#include <cstdint>

#include "layers/observer.h"

namespace coterie::lens {

/// Experts that a step's tokens were routed to, of all experts of all layers.
class ExpertsRead final : public layers::Observer {
 public:
  void plan(int64_t, const ops::RoutingPlan& plan, tensor::ConstMatrix) override {
    for (int64_t e = 0; e < plan.experts(); ++e) used_ += plan.tokens_of(e).empty() ? 0 : 1;
    all_ += plan.experts();
  }
  double share() const { return all_ > 0 ? static_cast<double>(used_) / static_cast<double>(all_) : 0; }

 private:
  int64_t used_ = 0, all_ = 0;
};

}  // namespace coterie::lens
