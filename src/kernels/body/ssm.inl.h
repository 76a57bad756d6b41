// State-space kernels. Included inside namespace coterie::kernels::<isa>, after math.inl.h.

/// A vector of `lanes` channels, kWidth of them in all but the last.
COTERIE_INLINE Vf load_lanes(const float* p, int64_t lanes) { return lanes == kWidth ? load(p) : load_first(p, lanes); }
COTERIE_INLINE void store_lanes(float* p, Vf v, int64_t lanes) {
  if (lanes == kWidth)
    store(p, v);
  else
    store_first(p, v, lanes);
}

/// log(1 + exp(x)) without overflow or cancellation: max(x, 0) + log1p(exp(-|x|)), and log1p(u) = 2 artanh(u / (2 + u))
/// by its series, whose first term left out is below 2e-10 of the whole for u <= 1.
COTERIE_INLINE Vf softplus(Vf x) {
  const Vf u = exp(sub(zero(), abs(x)));
  const Vf s = div(u, add(set(2.0f), u));
  const Vf z = mul(s, s);
  Vf p = set(1.0f / 17);
  p = fma(p, z, set(1.0f / 15));
  p = fma(p, z, set(1.0f / 13));
  p = fma(p, z, set(1.0f / 11));
  p = fma(p, z, set(1.0f / 9));
  p = fma(p, z, set(1.0f / 7));
  p = fma(p, z, set(1.0f / 5));
  p = fma(p, z, set(1.0f / 3));
  p = fma(mul(p, z), s, s);
  return add(max(zero(), x), add(p, p));
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

constinit const SsmKernels ssm_kernels = {convolve, selective_scan, head_scan, softplus_row};
