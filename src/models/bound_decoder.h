#pragma once

#include <memory>

#include "models/binder.h"
#include "models/decoder.h"
#include "models/network.h"

namespace coterie::models {

/// The decoder over a network whose weights lie in a checkpoint.
class BoundDecoder : public Decoder {
 public:
  BoundDecoder(ModelSpec spec, const checkpoint::TensorSource& source, const NameTable& names);

  const ModelSpec& spec() const override { return spec_; }
  tensor::Matrix forward(ops::Context& context, std::span<const SequenceStep> steps,
                         const StepOptions& options) const override;
  void visit(layers::TensorVisitor& visitor) const override;
  bool cache_holds(int64_t before, int64_t after) const override;

  const std::vector<std::string>& warnings() const { return binding_.warnings; }

 private:
  ModelSpec spec_;
  Network network_;
  Binding binding_;
};

}  // namespace coterie::models
