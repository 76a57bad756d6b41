#pragma once

#include <memory>

#include "layers/moe/expert_computer.h"
#include "tensor/arena.h"
#include "train/ranks/team.h"

// Experts over the ranks of a training run. Each rank has samples of its own and takes them through the model; all are
// in the same layer at the same time. There each sends the rows that others' experts read to their owners, computes its
// own experts for the rows of all, and gets back what each slot's expert gave. The backward pass is the same with
// gradients. The gradients of an expert's weights are added up by its owner, rank by rank: that is in the order of the
// samples, whatever arrives first (docs/design/training.md).
namespace coterie::train {

/// The routed experts of a model over the ranks of a team, as the layers of one rank see them.
class ExpertExchange final : public layers::ExpertComputer {
 public:
  /// `team` must outlive it.
  explicit ExpertExchange(Team& team) : team_(team) {}

  /// What is kept for a backward pass that will not come is forgotten.
  void forget() { kept_.reset(); }

  void compute(ops::Context& context, const layers::ExpertCall& call, const layers::ExpertWork& work,
               tensor::Matrix y) override;

 private:
  class Layer;

  Team& team_;
  tensor::Arena kept_{1 << 20};  // for the backward pass, layer on layer
};

}  // namespace coterie::train
