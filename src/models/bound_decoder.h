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
                         const PassOptions& options) const override;
  double loss(ops::Context& context, std::span<const SequenceStep> steps, const PassOptions& options) const override;
  void expert_outputs(ops::Context& context, int64_t layer, const ops::FormedRows& x, const ops::RoutingPlan& plan,
                      std::span<const int32_t> ids, tensor::Matrix out) const override;
  void read(layers::TensorReader& reader) const override;
  void rebind(layers::TensorVisitor& visitor) override;
  void weights_changed() override;
  bool cache_holds(int64_t before, int64_t after) const override;

  const std::vector<std::string>& warnings() const { return binding_.warnings; }
  /// Its blocks count as layers `first` and on, in states and for observers: of a head that a model is trained with.
  void number_layers_from(int64_t first) { first_layer_ = first; }

 private:
  struct Rows;
  std::shared_ptr<const Rows> lay_out(std::span<const SequenceStep> steps, bool scored) const;
  /// The rows without those of sequences that leave before `layer`; what is in x, embedded and the shortcut moves up
  /// likewise.
  std::shared_ptr<const Rows> without_leavers(std::shared_ptr<const Rows> rows, int64_t layer, tensor::Matrix& x,
                                              tensor::Matrix& embedded, tensor::Matrix& shortcut) const;
  /// The residual stream after the last block, [N, D], in the context's arena. `rows` lose those of sequences that
  /// left.
  tensor::Matrix run_blocks(ops::Context& context, std::shared_ptr<const Rows>& rows, const PassOptions& pass) const;

  ModelSpec spec_;
  Network network_;
  int64_t first_layer_ = 0;
  bool rows_matter_ = false;  // a router's choice for one row depends on the batch's others, so none may be taken out
  Binding binding_;
};

}  // namespace coterie::models
