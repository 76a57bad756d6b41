#pragma once

#include <cstdint>

#include "layers/batch.h"
#include "layers/block.h"
#include "layers/moe/prefetching_source.h"

namespace coterie::models {

/// What the router of a later block says of the residual stream before the blocks in between have changed it
/// (Eliseev and Mazur 2023, arXiv 2312.17238: a guess, right four times of five in published models).
class NextRouting final : public layers::RoutingGuess {
 public:
  /// `next` has a router (Block::has_router) and is number `layer`. All must outlive it; x [N, D] is the residual
  /// stream of the batch's rows.
  NextRouting(const layers::Block& next, int64_t layer, const layers::Batch& batch, tensor::ConstMatrix x)
      : next_(next), layer_(layer), batch_(batch), x_(x) {}

  std::span<const ops::ExpertInput> inputs() const override { return next_.experts()->inputs(); }
  Choices choices() const override;

 private:
  const layers::Block& next_;
  int64_t layer_;
  const layers::Batch& batch_;
  tensor::ConstMatrix x_;
};

}  // namespace coterie::models
