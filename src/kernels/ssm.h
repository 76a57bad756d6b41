#pragma once

#include <cstdint>

namespace coterie::kernels {

// State-space kernels: recurrences over the tokens of one sequence. A state element is updated token by token, in one
// order, whatever piece of the prompt a call is given, so a prompt cut anywhere gives the bits of the whole, and decode
// those of prefill. Lanes run across channels. (The chunked matrix form of SSD, Dao & Gu 2024, section 6, was weighed
// and left: for head_dim 64 and 128 states it saves a quarter of the multiply-adds of a recurrence whose state stays in
// registers, and its bits would depend on where chunks begin.)
//
// All rows are f32 and unaligned; the strides are in floats. tokens, channels and states are at least 1.

/// y[t, c] = bias[c] + Σ_k taps[k, c] * in[t - width + 1 + k, c], where in[< 0] is the history. A causal convolution
/// of each channel with its own taps.
struct ConvolutionTile {
  const float* x = nullptr;  // [≥ end, channels]
  int64_t x_stride = 0;
  const float* history = nullptr;  // [width - 1, channels] inputs before x, oldest first
  int64_t history_stride = 0;
  const float* taps = nullptr;  // [width, channels]
  int64_t taps_stride = 0;
  const float* bias = nullptr;  // [channels], or null
  float* y = nullptr;           // [≥ end, channels]; not x
  int64_t y_stride = 0;
  int64_t begin = 0, end = 0;  // tokens to be computed
  int64_t channels = 0, width = 0;
};

/// The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752, equation 2 with zero-order hold for A and Euler for
/// B): for each channel c and state n
///   h[n, c] = exp(dt[t, c] * a[n, c]) * h[n, c] + dt[t, c] * x[t, c] * b[t, n]
///   y[t, c] = Σ_n h[n, c] * c[t, n] + d[c] * x[t, c]
struct SelectiveScanTile {
  const float* x = nullptr;  // [tokens, channels]
  int64_t x_stride = 0;
  const float* dt = nullptr;  // [tokens, channels] positive
  int64_t dt_stride = 0;
  const float* b = nullptr;  // [tokens, states]
  int64_t b_stride = 0;
  const float* c = nullptr;  // [tokens, states]
  int64_t c_stride = 0;
  const float* a = nullptr;  // [states, channels] negative
  int64_t a_stride = 0;
  const float* d = nullptr;  // [channels]
  float* h = nullptr;        // [states, channels]
  int64_t h_stride = 0;
  float* y = nullptr;  // [tokens, channels]; not x
  int64_t y_stride = 0;
  int64_t tokens = 0, channels = 0, states = 0;
};

/// The scan of Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): the decay is one number for a head and token,
///   h[n, c] = decay[t] * h[n, c] + dt[t] * x[t, c] * b[t, n]
/// and y as above with one d for the head.
struct HeadScanTile {
  const float* x = nullptr;  // [tokens, channels] of this head
  int64_t x_stride = 0;
  const float* dt = nullptr;     // [tokens]
  const float* decay = nullptr;  // [tokens] exp(dt * a)
  int64_t dt_stride = 0;         // from token to token, of both
  const float* b = nullptr;      // [tokens, states]
  int64_t b_stride = 0;
  const float* c = nullptr;  // [tokens, states]
  int64_t c_stride = 0;
  float d = 0;
  float* h = nullptr;  // [states, channels]
  int64_t h_stride = 0;
  float* y = nullptr;  // [tokens, channels]; not x
  int64_t y_stride = 0;
  int64_t tokens = 0, channels = 0, states = 0;
};

/// The gated delta rule (Yang, Kautz & Hatamizadeh 2024, arXiv:2412.06464, equation 10; with a decay for each key
/// channel Kimi Linear, arXiv:2510.26692) of one head, whose state is s [keys, channels]. Of each token
///   s[i, c] = decay[i] * s[i, c];  u[c] = beta * (v[c] - Σ_i k[i] * s[i, c])
///   s[i, c] = s[i, c] + k[i] * u[c];  y[c] = Σ_i q[i] * s[i, c]
/// Channels do not mix, and sums over keys go from the first on.
struct DeltaRuleTile {
  const float* q = nullptr;  // [tokens, keys]
  int64_t q_stride = 0;
  const float* k = nullptr;  // [tokens, keys]
  int64_t k_stride = 0;
  const float* v = nullptr;  // [tokens, channels]
  int64_t v_stride = 0;
  const float* decay = nullptr;  // [tokens, keys], or [tokens, 1] when not `decay_by_key`
  int64_t decay_stride = 0;
  bool decay_by_key = false;
  const float* beta = nullptr;  // [tokens, 1]
  int64_t beta_stride = 0;
  float* s = nullptr;  // [keys, channels]
  int64_t s_stride = 0;
  float* y = nullptr;  // [tokens, channels]; none of the others
  int64_t y_stride = 0;
  int64_t tokens = 0, keys = 0, channels = 0;
};

struct SsmKernels {
  void (*convolve)(const ConvolutionTile& tile) noexcept = nullptr;
  void (*selective_scan)(const SelectiveScanTile& tile) noexcept = nullptr;
  void (*head_scan)(const HeadScanTile& tile) noexcept = nullptr;
  /// y = min(max(log(1 + exp(x + bias)), low), high); bias may be null, the bounds infinite. y may be x.
  void (*softplus)(const float* x, const float* bias, float low, float high, float* y, int64_t n) noexcept = nullptr;
  void (*delta_rule)(const DeltaRuleTile& tile) noexcept = nullptr;
};

}  // namespace coterie::kernels
