#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "layers/tensor_list.h"
#include "models/decoder.h"
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
  int64_t parts = 1, merged_with = 0;  // as ListedTensor says
};

/// The weights of a decoder as f32 in memory of their own, to be changed, and their gradients.
class Parameters {
 public:
  using Chosen = base::FunctionRef<bool(const layers::ListedTensor& tensor)>;

  /// Decodes every weight and points the decoder at the copies; it must not outlive this. Refuses (unsupported) files
  /// that hold another form of a parameter (GGUF's -exp of A_log).
  explicit Parameters(Decoder& decoder);
  /// The parameters that `chosen` names. The others are frozen: they stay where they are, in whatever format, are not
  /// listed and take no memory here; what the decoder was bound to must outlive it.
  Parameters(Decoder& decoder, Chosen chosen);
  /// Values that stay where they are, and must outlive this: an adapter's matrices. They get gradients here.
  explicit Parameters(std::vector<Parameter> list);

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

}  // namespace coterie::models
