// State-space kernels. Included inside namespace coterie::kernels::<isa>, after math.inl.h.

/// A vector of `lanes` channels, kWidth of them in all but the last.
COTERIE_INLINE Vf load_lanes(const float* p, int64_t lanes) { return lanes == kWidth ? load(p) : load_first(p, lanes); }
COTERIE_INLINE void store_lanes(float* p, Vf v, int64_t lanes) {
  if (lanes == kWidth)
    store(p, v);
  else
    store_first(p, v, lanes);
}

inline void softplus_row(const float* x, const float* bias, float low, float high, float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t lanes = n - i < kWidth ? n - i : kWidth;
    Vf v = load_lanes(x + i, lanes);
    if (bias) v = add(v, load_lanes(bias + i, lanes));
    store_lanes(y + i, min(set(high), max(set(low), softplus(v))), lanes);
  }
}

inline void convolve(const ConvolutionTile& tile) noexcept {
  const int64_t before = tile.width - 1;
  for (int64_t i = 0; i < tile.channels; i += kWidth) {
    const int64_t lanes = tile.channels - i < kWidth ? tile.channels - i : kWidth;
    const Vf bias = tile.bias ? load_lanes(tile.bias + i, lanes) : zero();
    for (int64_t t = tile.begin; t < tile.end; ++t) {
      Vf sum = bias;
      for (int64_t k = 0; k < tile.width; ++k) {
        const int64_t at = t - before + k;
        const float* in = at < 0 ? tile.history + (before + at) * tile.history_stride : tile.x + at * tile.x_stride;
        sum = fma(load_lanes(tile.taps + k * tile.taps_stride + i, lanes), load_lanes(in + i, lanes), sum);
      }
      store_lanes(tile.y + t * tile.y_stride + i, sum, lanes);
    }
  }
}

/// States n … n + N - 1 of one vector of channels over all tokens; the states stay in registers. What they add to y is
/// added to what is there, state by state, so that blocks of any N give the same bits.
template <int64_t N>
COTERIE_INLINE void selective_scan_block(const SelectiveScanTile& tile, int64_t i, int64_t lanes, int64_t n) {
  Vf h[N], a[N];
  COTERIE_UNROLL
  for (int64_t j = 0; j < N; ++j) {
    h[j] = load_lanes(tile.h + (n + j) * tile.h_stride + i, lanes);
    a[j] = load_lanes(tile.a + (n + j) * tile.a_stride + i, lanes);
  }
  const Vf d = load_lanes(tile.d + i, lanes);
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const Vf x = load_lanes(tile.x + t * tile.x_stride + i, lanes);
    const Vf dt = load_lanes(tile.dt + t * tile.dt_stride + i, lanes);
    const Vf dtx = mul(dt, x);
    const float* b = tile.b + t * tile.b_stride + n;
    const float* c = tile.c + t * tile.c_stride + n;
    float* const y = tile.y + t * tile.y_stride + i;
    Vf sum = n == 0 ? mul(d, x) : load_lanes(y, lanes);
    COTERIE_UNROLL
    for (int64_t j = 0; j < N; ++j) {
      h[j] = fma(exp(mul(dt, a[j])), h[j], mul(dtx, set(b[j])));
      sum = fma(h[j], set(c[j]), sum);
    }
    store_lanes(y, sum, lanes);
  }
  COTERIE_UNROLL
  for (int64_t j = 0; j < N; ++j) store_lanes(tile.h + (n + j) * tile.h_stride + i, h[j], lanes);
}

inline void selective_scan(const SelectiveScanTile& tile) noexcept {
  constexpr int64_t kStates = kRegisters / 4;  // besides each its decay, and what exp needs
  for (int64_t i = 0; i < tile.channels; i += kWidth) {
    const int64_t lanes = tile.channels - i < kWidth ? tile.channels - i : kWidth;
    int64_t n = 0;
    for (; n + kStates <= tile.states; n += kStates) selective_scan_block<kStates>(tile, i, lanes, n);
    for (; n < tile.states; ++n) selective_scan_block<1>(tile, i, lanes, n);
  }
}

template <int64_t N>
COTERIE_INLINE void head_scan_block(const HeadScanTile& tile, int64_t i, int64_t lanes, int64_t n) {
  Vf h[N];
  COTERIE_UNROLL
  for (int64_t j = 0; j < N; ++j) h[j] = load_lanes(tile.h + (n + j) * tile.h_stride + i, lanes);
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const Vf x = load_lanes(tile.x + t * tile.x_stride + i, lanes);
    const Vf dtx = mul(set(tile.dt[t * tile.dt_stride]), x);
    const Vf decay = set(tile.decay[t * tile.dt_stride]);
    const float* b = tile.b + t * tile.b_stride + n;
    const float* c = tile.c + t * tile.c_stride + n;
    float* const y = tile.y + t * tile.y_stride + i;
    Vf sum = n == 0 ? mul(set(tile.d), x) : load_lanes(y, lanes);
    COTERIE_UNROLL
    for (int64_t j = 0; j < N; ++j) {
      h[j] = fma(dtx, set(b[j]), mul(decay, h[j]));
      sum = fma(h[j], set(c[j]), sum);
    }
    store_lanes(y, sum, lanes);
  }
  COTERIE_UNROLL
  for (int64_t j = 0; j < N; ++j) store_lanes(tile.h + (n + j) * tile.h_stride + i, h[j], lanes);
}

inline void head_scan(const HeadScanTile& tile) noexcept {
  constexpr int64_t kStates = kRegisters / 2;
  for (int64_t i = 0; i < tile.channels; i += kWidth) {
    const int64_t lanes = tile.channels - i < kWidth ? tile.channels - i : kWidth;
    int64_t n = 0;
    for (; n + kStates <= tile.states; n += kStates) head_scan_block<kStates>(tile, i, lanes, n);
    for (; n < tile.states; ++n) head_scan_block<1>(tile, i, lanes, n);
  }
}

/// Columns of one head's state over all tokens: N vectors of them from `at` on, the last of `lanes` lanes. What the
/// next token recalls is summed up in the pass that writes the state, so that each token takes one pass; the sums are
/// those of a pass of their own.
template <int64_t N>
COTERIE_INLINE void delta_rule_block(const DeltaRuleTile& tile, int64_t at, int64_t lanes) {
  const auto get = [lanes](const float* p, int64_t j) {
    return j + 1 < N ? load(p + j * kWidth) : load_lanes(p + j * kWidth, lanes);
  };
  const auto put = [lanes](float* p, int64_t j, Vf v) {
    if (j + 1 < N)
      store(p + j * kWidth, v);
    else
      store_lanes(p + j * kWidth, v, lanes);
  };
  const int64_t step = tile.decay_by_key ? 1 : 0;
  Vf recalled[N];
  COTERIE_UNROLL
  for (int64_t j = 0; j < N; ++j) recalled[j] = zero();
  for (int64_t i = 0; i < tile.keys; ++i) {
    const Vf kept = set(tile.k[i] * tile.decay[i * step]);
    const float* const row = tile.s + i * tile.s_stride + at;
    COTERIE_UNROLL
    for (int64_t j = 0; j < N; ++j) recalled[j] = fma(kept, get(row, j), recalled[j]);
  }
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const float *const q = tile.q + t * tile.q_stride, *const k = tile.k + t * tile.k_stride;
    const float* const decay = tile.decay + t * tile.decay_stride;
    const Vf beta = set(tile.beta[t * tile.beta_stride]);
    const float* const v = tile.v + t * tile.v_stride + at;
    Vf u[N], read[N];
    COTERIE_UNROLL
    for (int64_t j = 0; j < N; ++j) {
      u[j] = mul(beta, sub(get(v, j), recalled[j]));
      read[j] = recalled[j] = zero();
    }
    if (t + 1 < tile.tokens) {
      const float *const next = k + tile.k_stride, *const next_decay = decay + tile.decay_stride;
      for (int64_t i = 0; i < tile.keys; ++i) {
        float* const row = tile.s + i * tile.s_stride + at;
        const Vf ki = set(k[i]), qi = set(q[i]), di = set(decay[i * step]), kept = set(next[i] * next_decay[i * step]);
        COTERIE_UNROLL
        for (int64_t j = 0; j < N; ++j) {
          const Vf s = fma(ki, u[j], mul(di, get(row, j)));
          put(row, j, s);
          read[j] = fma(qi, s, read[j]);
          recalled[j] = fma(kept, s, recalled[j]);
        }
      }
    } else {
      for (int64_t i = 0; i < tile.keys; ++i) {
        float* const row = tile.s + i * tile.s_stride + at;
        const Vf ki = set(k[i]), qi = set(q[i]), di = set(decay[i * step]);
        COTERIE_UNROLL
        for (int64_t j = 0; j < N; ++j) {
          const Vf s = fma(ki, u[j], mul(di, get(row, j)));
          put(row, j, s);
          read[j] = fma(qi, s, read[j]);
        }
      }
    }
    float* const y = tile.y + t * tile.y_stride + at;
    COTERIE_UNROLL
    for (int64_t j = 0; j < N; ++j) put(y, j, read[j]);
  }
}

template <int64_t N>
COTERIE_INLINE void delta_rule_by(const DeltaRuleTile& tile) {
  int64_t at = 0;
  for (; at + N * kWidth <= tile.channels; at += N * kWidth) delta_rule_block<N>(tile, at, kWidth);
  for (; at < tile.channels; at += kWidth)
    delta_rule_block<1>(tile, at, tile.channels - at < kWidth ? tile.channels - at : kWidth);
}

// Many tokens: columns whose part of the state stays in the first-level cache. One: long runs of each row.
inline void delta_rule(const DeltaRuleTile& tile) noexcept {
  if (tile.tokens > 1)
    delta_rule_by<kRegisters / 8>(tile);
  else
    delta_rule_by<kRegisters / 4>(tile);
}

constinit const SsmKernels ssm_kernels = {convolve, selective_scan, head_scan, softplus_row, delta_rule};
