#pragma once

#include <cstdint>
#include <span>

#include "ops/dropout.h"
#include "tensor/view.h"

// The noise of noisy top-k (Shazeer et al. 2017, arXiv:1701.06538 eq. 4).
namespace coterie::layers {

/// noisy = logits + normal * softplus(noise), with a draw from N(0, 1) for each element, keyed by its row, `layer` and
/// the expert. All [N, E]; rows [N].
void add_noise(tensor::ConstMatrix logits, tensor::ConstMatrix noise, std::span<const ops::DropoutRow> rows,
               int64_t layer, tensor::Matrix noisy);
/// The backward pass under the same draws: dlogits += dnoisy, dnoise += dnoisy * normal * sigmoid(noise).
void add_noise_backward(tensor::ConstMatrix noise, std::span<const ops::DropoutRow> rows, int64_t layer,
                        tensor::ConstMatrix dnoisy, tensor::Matrix dlogits, tensor::Matrix dnoise);

}  // namespace coterie::layers
