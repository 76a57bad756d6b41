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
  // Of routed experts: how many there are, side by side along the first axis of `shape`, and the first of those whose
  // values are here; 0: not of experts. `count` is of what is here, `shape` of all.
  int64_t experts = 0, first = 0;

  int64_t whole() const { return tensor::element_count(shape); }
  int64_t of_expert() const { return experts > 0 ? whole() / experts : 0; }
  int64_t begin() const { return first * of_expert(); }  // of what is here in the whole
};

/// Routed experts [first, end) of a layer.
struct ExpertRange {
  int64_t first = 0, end = 0;
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
  /// The same for a rank of several: of a layer's E routed experts those that `own`(E) names are here, of the others
  /// there is no value any more, but for vectors, which are kept as they are and not listed.
  using Own = base::FunctionRef<ExpertRange(int64_t experts)>;
  Parameters(Decoder& decoder, Chosen chosen, Own own);
  /// Values that stay where they are, and must outlive this: an adapter's matrices. They get gradients here, of experts
  /// those that `own` names.
  explicit Parameters(std::vector<Parameter> list);
  Parameters(std::vector<Parameter> list, Own own);

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
