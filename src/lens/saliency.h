#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "layers/observer.h"
#include "models/spec.h"

namespace coterie::lens {

/// Router-weighted expert activation (REAP, Lasby et al. 2025, arXiv:2510.13999, eq. 9): of each expert the mean, over
/// the tokens that are routed to it, of its weight times the norm of what it gives, g_j(x) |f_j(x)|.
class ExpertSaliency final : public layers::Observer {
 public:
  struct Layer {
    std::vector<double> sums;     // [E] of g_j(x) |f_j(x)|
    std::vector<int64_t> tokens;  // [E]
    /// [E]; 0 for an expert that no token was routed to.
    std::vector<double> saliency() const;
  };

  explicit ExpertSaliency(const models::ModelSpec& spec);

  bool wants_expert_outputs() const override { return true; }
  void expert_outputs(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix out) override;

  const std::map<int64_t, Layer>& layers() const { return layers_; }

 private:
  std::map<int64_t, Layer> layers_;
};

}  // namespace coterie::lens
