#pragma once

#include <cstdint>

#include "kernels/activation.h"

namespace coterie::kernels {

/// A row of AdamW (src/train/adamw.h has the formula). `gradient` is multiplied by `gradient_scale` where it is read,
/// and set to 0 afterwards if `clear`.
struct AdamWTask {
  float beta1 = 0, beta2 = 0;
  float step_size = 0;   // rate / (1 - beta1^t)
  float root_scale = 0;  // 1 / sqrt(1 - beta2^t)
  float eps = 0;
  float keep = 1;  // 1 - rate * decay
  float gradient_scale = 1;
  bool clear = false;
  float *weight = nullptr, *gradient = nullptr, *first = nullptr, *second = nullptr;
  int64_t n = 0;
};

/// An expert's activation in the backward pass, for h = act(gate) * up, or act(gate) where there is no up:
///   weighted = weight * h;  gate = weight * dh * up * act'(gate);  up = weight * dh * act(gate)
struct GateBackTask {
  Activation activation = Activation::silu;
  float weight = 1;  // of the slot
  const float* dh = nullptr;
  float *gate = nullptr, *up = nullptr, *weighted = nullptr;
  int64_t n = 0;
};

/// Kernels on one row of f32 that only training wants; the rules are those of VectorKernels.
struct TrainingKernels {
  void (*adamw)(const AdamWTask& task) noexcept;
  /// Returns Σ dh * h.
  float (*gate_back)(const GateBackTask& task) noexcept;
  /// p = softmax(s) and d the gradient by p become d = scale * p * (d - Σ p d), scale times that by s. Returns Σ p d.
  float (*softmax_back)(const float* p, float* d, float scale, int64_t n) noexcept;
  /// Σ x², in f64.
  double (*sum_of_squares)(const float* x, int64_t n) noexcept;
};

}  // namespace coterie::kernels
