#pragma once

#include <memory>

#include "base/function_ref.h"
#include "models/decoder.h"
#include "models/network.h"

namespace coterie::models {

/// The decoder over a network whose weights something else holds: a checkpoint, mostly.
class BoundDecoder : public Decoder {
 public:
  /// `bind` points every weight of the network at what it is to be.
  BoundDecoder(ModelSpec spec, base::FunctionRef<Binding(Network& network)> bind);

  const ModelSpec& spec() const override { return spec_; }
  tensor::Matrix forward(ops::Context& context, std::span<const SequenceStep> steps,
                         const StepOptions& options) const override;
  double loss(ops::Context& context, std::span<const SequenceStep> steps, const LossOptions& options) const override;
  void visit(layers::TensorVisitor& visitor) const override;
  void rebind(layers::TensorVisitor& visitor) override;
  bool cache_holds(int64_t before, int64_t after) const override;

  const std::vector<std::string>& warnings() const { return binding_.warnings; }

 private:
  struct Rows;
  struct Pass {
    layers::Tap* tap = nullptr;
    const layers::RouterLoss* router_loss = nullptr;
    float dropout = 0, expert_dropout = 0;
    bool recompute = false, training = false;
  };
  std::shared_ptr<const Rows> lay_out(std::span<const SequenceStep> steps, bool scored) const;
  /// The residual stream after the last block, [N, D], in the context's arena.
  tensor::Matrix run_blocks(ops::Context& context, const std::shared_ptr<const Rows>& rows, const Pass& pass) const;

  ModelSpec spec_;
  Network network_;
  Binding binding_;
};

}  // namespace coterie::models
