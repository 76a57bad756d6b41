#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "layers/tensor_list.h"
#include "models/decoder.h"
#include "models/names/name_table.h"
#include "ops/tape.h"
#include "tensor/buffer.h"

namespace coterie::models {

/// One tensor of a layer's list as training sees it. A stack of experts is one, [E, rows, cols].
struct Parameter {
  std::string path;  // canonical: "blocks.3.moe.experts.gate"
  layers::Place place;
  tensor::Shape shape;
  float* values;
  float* gradient;  // laid out as the values
  int64_t count;
  bool trained;  // false: a buffer that has no gradient (a router's bias of selection)
  bool matrix;   // multiplied with activations, or looked up: not a norm, a bias, a convolution's taps or A_log
};

class Adapter;

/// The weights of a decoder as f32 in memory of their own, to be changed, and their gradients.
class Parameters {
 public:
  using Chosen = base::FunctionRef<bool(const layers::TensorVisitor::Tensor& tensor)>;

  /// Decodes every weight and points the decoder at the copies; it must not outlive this. Refuses (unsupported) files
  /// that hold another form of a parameter (GGUF's -exp of A_log).
  explicit Parameters(Decoder& decoder);
  /// Of those that `chosen` names. The others are frozen: they stay where they are, in whatever format, are not listed
  /// and take no memory here; what the decoder was bound to must outlive it.
  Parameters(Decoder& decoder, Chosen chosen);
  /// An adapter's matrices, which stay where they are: the adapter must outlive this.
  explicit Parameters(Adapter& adapter);

  std::span<const Parameter> list() const { return list_; }
  /// For ops::Tape.
  const ops::ParameterGradients& gradients() const { return gradients_; }
  void clear_gradients();
  /// Values that are listed.
  int64_t count() const { return gradient_.size(); }

 private:
  std::vector<Parameter> list_;
  tensor::Buffer<float> values_, gradient_;  // values_: of all but vectors, which lie in their layers
  ops::ParameterGradients gradients_;
};

/// Tells the layers that weights have changed: what they derive from them is made anew.
void weights_changed(Decoder& decoder);

/// The gradients as tensors with the names and shapes that the weights have in `source`, `prefix` before each.
/// `parameters` must outlive what is returned.
std::vector<checkpoint::TensorToWrite> gradients_to_write(const Parameters& parameters, const NameTable& names,
                                                          const checkpoint::TensorSource& source,
                                                          const std::string& prefix);

/// The loss that the family's reference reports: the mean cross-entropy of the next token, plus spec().router_aux_loss
/// times the balance loss of all routers over all tokens. The sequences are one batch, each from its beginning.
struct BatchLoss {
  double cross_entropy = 0, balance = 0;
};
/// `tap` listens too.
BatchLoss batch_loss(ops::Context& context, const Decoder& decoder, std::span<const std::span<const int32_t>> sequences,
                     layers::Tap* tap = nullptr);
/// The same, and its gradients are added to the parameters that the tape was made for. Memory grows with the number of
/// tokens; context.arena and the tape keep theirs for the next batch.
BatchLoss add_gradients(ops::Context& context, ops::Tape& tape, const Decoder& decoder,
                        std::span<const std::span<const int32_t>> sequences, bool recompute = false);

}  // namespace coterie::models
