#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "layers/observer.h"
#include "models/parameters.h"

// Gradients beside finite differences of the loss.
namespace coterie::laws {

/// Which tokens went where, and for SparseMixer which experts were near the best of those left: a softmax over them is
/// the weight, so the loss jumps where one comes near.
class Plans : public layers::Observer {
 public:
  explicit Plans(const models::ModelSpec& spec) {
    for (const models::BlockSpec& block : spec.blocks)
      if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
        if (moe->router.selection == layers::RouterSpec::Selection::sparsemixer) near_best = moe->router.near_best;
  }
  void mixer_routed(const layers::Routed& r) override { routed(r); }
  void routed(const layers::Routed& r) override {
    seen.push_back(r.plan.slot_token), seen.push_back(r.plan.expert_offset);
    if (near_best == 0) return;
    const int64_t k = std::ssize(r.chosen) / r.logits.rows;
    for (int64_t t = 0; t < r.logits.rows; ++t)
      for (int64_t i = 0; i < k; ++i) {
        const float* const row = r.logits.row(t);
        const float top = row[r.chosen[static_cast<size_t>(t * k + i)]];
        for (int64_t e = 0; e < r.logits.cols; ++e)
          near.push_back((top - row[e]) / std::max(std::abs(row[e]), top) > 2 * near_best);
      }
  }
  void clear() { seen.clear(), near.clear(); }
  bool operator==(const Plans& other) const { return seen == other.seen && near == other.near; }

  std::vector<std::vector<int32_t>> seen;
  std::vector<bool> near;

 private:
  float near_best = 0;
};

inline double gradient_norm(const models::Parameter& p) {
  double squares = 0;
  for (int64_t i = 0; i < p.count; ++i) squares += std::pow(static_cast<double>(p.gradient[i]), 2);
  return std::sqrt(squares);
}

/// The gradient divided by its norm: its own direction, along which the slope is the norm.
inline std::vector<double> own_direction(const models::Parameter& p, double norm) {
  std::vector<double> direction(p.gradient, p.gradient + p.count);
  for (double& d : direction) d /= norm;
  return direction;
}

/// How far the slope of the loss along `direction` is from `expected`, as a share of the gradient's norm: the best of
/// some steps. None where every step crossed something at which there is no slope: `loss` is nothing there. The first
/// step changes the loss by about 4e-2; as it shrinks, what the loss is rounded by outgrows the difference (zamba2,
/// whose gradients of q are 400 long: off by 9e-4, and by 3e-2 at a change of 6e-4). The values are as they were
/// afterwards.
inline std::optional<double> difference_error(const models::Parameter& p, std::span<const double> direction,
                                              double norm, double expected,
                                              base::FunctionRef<std::optional<double>()> loss) {
  const std::vector<float> values(p.values, p.values + p.count);
  std::optional<double> best;
  for (double change = 4e-2; change > 3e-5 && best.value_or(1e9) > 5e-3; change /= 2) {
    const double step = std::min(change / norm, 0.1);
    bool same = true;
    const auto at = [&](double steps) {
      for (size_t i = 0; i < values.size(); ++i)
        p.values[i] = static_cast<float>(static_cast<double>(values[i]) + steps * step * direction[i]);
      const std::optional<double> result = loss();
      same = same && result;
      return result.value_or(0);
    };
    const double slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step);
    if (same) best = std::min(best.value_or(1e9), std::abs(slope - expected) / norm);
  }
  std::copy(values.begin(), values.end(), p.values);
  return best;
}

/// Clipping has corners, some of which a step crosses; the op's own test keeps away from them.
inline bool clips(const models::ModelSpec& spec) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [&](const models::BlockSpec& block) {
    const layers::AttentionSpec* attention = models::attention_of(spec, block);
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    return (attention && attention->clip_qkv) || (moe && (moe->clamp > 0 || moe->shared_clamp > 0));
  });
}

}  // namespace coterie::laws
