#pragma once

#include <cstdint>
#include <string>

#include "layers/norm.h"
#include "layers/tensor_list.h"
#include "ops/context.h"

namespace coterie::layers {

/// How a head for multi-token prediction begins (DeepSeek-V3, arXiv:2412.19437, section 2.2): from a token and what the
/// model made of the one before it, as its final norm left it, to what the head's block reads:
///   x = W [norm(embedding of the token), norm(hidden state before it)]
/// The block that follows, a norm and the model's own head then say which token comes after this one.
class Prediction {
 public:
  Prediction(const NormSpec& norm, int64_t width)
      : width_(width), embedding_norm_(norm, width), hidden_norm_(norm, width) {}

  /// before [N, D]; x [N, D]: the embedded tokens, and then the result.
  void forward(ops::Context& context, tensor::ConstMatrix before, tensor::Matrix x) const;
  /// embedding_norm, hidden_norm, projection [D, 2 D].
  void visit(TensorVisitor& visitor, const std::string& path);

 private:
  int64_t width_;
  Norm embedding_norm_, hidden_norm_;
  tensor::Weight projection_;
};

}  // namespace coterie::layers
