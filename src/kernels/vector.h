#pragma once

#include <cstdint>

#include "kernels/activation.h"

namespace coterie::kernels {

/// Kernels on one row of f32. No alignment is asked for; `n` >= 0; nothing outside the rows is read or written. Sums
/// run in one order, fixed by (instruction set, n). exp errs by at most 1.01 ulp, the functions made of it
/// by a few.
struct VectorKernels {
  /// y = x / sqrt(mean(x²) + eps) * (weight + offset). y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, float offset, float* y, int64_t n) noexcept;
  /// y = (x - mean) / sqrt(var + eps) * weight + bias; bias may be null. y may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) noexcept;
  /// y += scale * x.
  void (*add_scaled)(const float* x, float scale, float* y, int64_t n) noexcept;
  /// x *= scale.
  void (*scale)(float* x, float scale, int64_t n) noexcept;
  /// x = cap * tanh(x / cap).
  void (*softcap)(float* x, float cap, int64_t n) noexcept;
  /// x = min(max(x, -limit), limit).
  void (*clamp)(float* x, float limit, int64_t n) noexcept;
  /// gate = activation(gate) * up; up may be null: gate = activation(gate).
  void (*activate)(Activation activation, float* gate, const float* up, int64_t n) noexcept;
  /// value = activation(x), to the bit as activate() has it, and slope = activation'(x); relu's at 0 is 0. Neither may
  /// be x.
  void (*activation_slope)(Activation activation, const float* x, float* value, float* slope, int64_t n) noexcept;
  /// y = exp(x); y = 1 / (1 + exp(-x)). y may be x.
  void (*exp)(const float* x, float* y, int64_t n) noexcept;
  void (*sigmoid)(const float* x, float* y, int64_t n) noexcept;
  /// x = exp(x) / sum(exp(x)); x = x - log(sum(exp(x))). n >= 1.
  void (*softmax)(float* x, int64_t n) noexcept;
  void (*log_softmax)(float* x, int64_t n) noexcept;
  /// The index of the largest value, the lowest of equals; a NaN is never chosen over a number. n >= 1.
  int64_t (*argmax)(const float* x, int64_t n) noexcept;

  /// cosine[i] = magnitude * cos(position * frequency[i]), sine alike; the product is rounded to f32 (as the reference
  /// has it), the functions are exact to f32 rounding of a double result. |angle| < 2^31.
  void (*rope_angles)(const float* frequency, float position, float magnitude, float* cosine, float* sine,
                      int64_t n) noexcept;
  /// Turns the pairs (x[i], x[i + half]), i < half, by angle i.
  void (*rope_half)(float* x, const float* cosine, const float* sine, int64_t half) noexcept;
  /// Turns the pairs (x[2i], x[2i + 1]), i < half, by angle i.
  void (*rope_interleaved)(float* x, const float* cosine, const float* sine, int64_t half) noexcept;

  /// Rows of 16-bit floats from and to f32, to nearest even; a NaN stays a NaN.
  void (*f16_to_f32)(const uint16_t* x, float* y, int64_t n) noexcept;
  void (*f32_to_f16)(const float* x, uint16_t* y, int64_t n) noexcept;
  void (*bf16_to_f32)(const uint16_t* x, float* y, int64_t n) noexcept;
  void (*f32_to_bf16)(const float* x, uint16_t* y, int64_t n) noexcept;
};

}  // namespace coterie::kernels
