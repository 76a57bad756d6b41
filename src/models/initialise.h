#pragma once

#include <cstdint>

#include "models/parameters.h"
#include "models/spec.h"

namespace coterie::models {

/// How matrices and embeddings are drawn before the first step.
struct InitialWeights {
  enum class Kind {
    normal,  // N(0, std²); biases zero
    // Matrices N(0, 2 / inputs) (He et al. 2015, arXiv:1502.01852), biases uniform in ±1 / √inputs as PyTorch's Linear
    // leaves them, embeddings N(0, 1): makeMoE's.
    kaiming,
  };
  Kind kind = Kind::normal;
  double std = 0.02;
  bool scale_residual = true;  // normal: projections that end in the residual stream by 1 / √(2 L) (GPT-2)
};

/// Draws the weights of a model that is to be trained from nothing. Each tensor's numbers depend on the seed and its
/// path alone. Norms start where they change nothing; sinks and biases of selection at zero; of state-space mixers A,
/// D, the time step's projection and bias and the convolution as their authors have them (Gu & Dao 2023,
/// arXiv:2312.00752; Dao & Gu 2024, arXiv:2405.21060). The decoder is to be told afterwards (Decoder::weights_changed).
void initialise(const Parameters& parameters, const ModelSpec& spec, const InitialWeights& init, uint64_t seed);

}  // namespace coterie::models
