// Kernels on rows. Included inside namespace coterie::kernels::<isa>, after math.inl.h.

/// Sum of f(vector) over a row: four accumulators over steps of four vectors, then whole vectors into the first, then
/// the tail. Lanes past the end are given to f as `fill`, which f must turn into 0.
template <typename F>
COTERIE_INLINE float sum_of(const float* x, int64_t n, float fill, F f) {
  Vf a = zero(), b = zero(), c = zero(), d = zero();
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    a = f(a, load(x + i));
    b = f(b, load(x + i + kWidth));
    c = f(c, load(x + i + 2 * kWidth));
    d = f(d, load(x + i + 3 * kWidth));
  }
  for (; i + kWidth <= n; i += kWidth) a = f(a, load(x + i));
  if (i < n) b = f(b, select(mask_first(n - i), load_first(x + i, n - i), set(fill)));
  return reduce_add(add(add(a, b), add(c, d)));
}

// Accumulators: functions rather than lambdas, which older compilers do not give the target of their surroundings.
struct PlusSquare {
  COTERIE_INLINE Vf operator()(Vf sum, Vf x) const { return fma(x, x, sum); }
};
struct PlusValue {
  COTERIE_INLINE Vf operator()(Vf sum, Vf x) const { return add(sum, x); }
};
struct PlusSquareFrom {
  float mean;
  COTERIE_INLINE Vf operator()(Vf sum, Vf x) const {
    const Vf d = sub(x, set(mean));
    return fma(d, d, sum);
  }
};
struct PlusExpFrom {
  float max;
  COTERIE_INLINE Vf operator()(Vf sum, Vf x) const { return add(sum, exp(sub(x, set(max)))); }
};

/// y[i] = f(x[i]) over a row.
template <typename F>
COTERIE_INLINE void map(const float* x, float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, f(load(x + i)));
  if (i < n) store_first(y + i, f(load_first(x + i, n - i)), n - i);
}
/// y[i] = f(x[i], z[i]).
template <typename F>
COTERIE_INLINE void map(const float* x, const float* z, float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, f(load(x + i), load(z + i)));
  if (i < n) store_first(y + i, f(load_first(x + i, n - i), load_first(z + i, n - i)), n - i);
}

struct Scale {
  float scale;
  COTERIE_INLINE Vf operator()(Vf x) const { return mul(x, set(scale)); }
};
struct SoftCap {
  float cap;
  COTERIE_INLINE Vf operator()(Vf x) const { return mul(set(cap), tanh(div(x, set(cap)))); }
};
struct Subtract {
  float value;
  COTERIE_INLINE Vf operator()(Vf x) const { return sub(x, set(value)); }
};
struct Clamp {
  float limit;
  COTERIE_INLINE Vf operator()(Vf x) const { return min(set(limit), max(set(-limit), x)); }
};
struct AddScaled {
  float scale;
  COTERIE_INLINE Vf operator()(Vf x, Vf y) const { return fma(x, set(scale), y); }
};
struct Normalise {
  float inverse, offset;
  COTERIE_INLINE Vf operator()(Vf x, Vf weight) const { return mul(mul(x, set(inverse)), add(weight, set(offset))); }
};
struct Centre {
  float mean, inverse;
  COTERIE_INLINE Vf operator()(Vf x, Vf weight) const { return mul(mul(sub(x, set(mean)), set(inverse)), weight); }
};
struct Exp {
  COTERIE_INLINE Vf operator()(Vf x) const { return exp(x); }
};
struct ExpFrom {
  float max;
  COTERIE_INLINE Vf operator()(Vf x) const { return exp(sub(x, set(max))); }
};
struct Sigmoid {
  COTERIE_INLINE Vf operator()(Vf x) const { return sigmoid(x); }
};

struct Softplus {
  COTERIE_INLINE Vf operator()(Vf x) const { return softplus(x); }
};

struct Silu {
  COTERIE_INLINE Vf operator()(Vf x) const { return div(x, add(set(1.0f), exp(sub(zero(), x)))); }
};
struct Gelu {
  COTERIE_INLINE Vf operator()(Vf x) const {
    return mul(mul(set(0.5f), x), add(set(1.0f), erf(mul(x, set(0.70710678118654752f)))));
  }
};
struct GeluTanh {
  COTERIE_INLINE Vf operator()(Vf x) const {
    const Vf inner = mul(set(0.79788456080286536f), fma(mul(mul(x, x), x), set(0.044715f), x));
    return mul(mul(set(0.5f), x), add(set(1.0f), tanh(inner)));
  }
};
struct Relu {
  COTERIE_INLINE Vf operator()(Vf x) const { return max(zero(), x); }
};
struct Relu2 {
  COTERIE_INLINE Vf operator()(Vf x) const {
    const Vf r = max(zero(), x);
    return mul(r, r);
  }
};
struct Identity {
  COTERIE_INLINE Vf operator()(Vf x) const { return x; }
};
template <typename F>
struct Gated {
  COTERIE_INLINE Vf operator()(Vf gate, Vf up) const { return mul(F()(gate), up); }
};
template <typename F>
COTERIE_INLINE void activate_with(float* gate, const float* up, int64_t n) {
  if (up)
    map(gate, up, gate, n, Gated<F>());
  else
    map(gate, gate, n, F());
}

COTERIE_INLINE float largest(const float* x, int64_t n) {
  Vf m = set(-__builtin_inff());
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) m = max(load(x + i), m);
  if (i < n) m = max(select(mask_first(n - i), load_first(x + i, n - i), m), m);
  return reduce_max(m);
}

/// log(sum(exp(x))) - max, and max. Sums of up to 1024 values are in f32, their sum is in double: a vocabulary of
/// 150,000 loses nothing.
COTERIE_INLINE double sum_of_exp(const float* x, int64_t n, float max_value) {
  double total = 0;
  for (int64_t i = 0; i < n; i += 1024) {
    const int64_t part = n - i < 1024 ? n - i : 1024;
    total += static_cast<double>(sum_of(x + i, part, -__builtin_inff(), PlusExpFrom{max_value}));
  }
  return total;
}

inline void rms_norm(const float* x, const float* weight, float eps, float offset, float* y, int64_t n) noexcept {
  const float mean = sum_of(x, n, 0, PlusSquare()) / static_cast<float>(n);
  map(x, weight, y, n, Normalise{1.0f / __builtin_sqrtf(mean + eps), offset});
}

inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y,
                       int64_t n) noexcept {
  const float mean = sum_of(x, n, 0, PlusValue()) / static_cast<float>(n);
  const float variance = sum_of(x, n, mean, PlusSquareFrom{mean}) / static_cast<float>(n);
  map(x, weight, y, n, Centre{mean, 1.0f / __builtin_sqrtf(variance + eps)});
  if (bias) map(bias, y, y, n, AddScaled{1.0f});
}

inline void add_scaled(const float* x, float factor, float* y, int64_t n) noexcept {
  map(x, y, y, n, AddScaled{factor});
}
inline void scale(float* x, float factor, int64_t n) noexcept { map(x, x, n, Scale{factor}); }
inline void softcap(float* x, float cap, int64_t n) noexcept { map(x, x, n, SoftCap{cap}); }
inline void clamp(float* x, float limit, int64_t n) noexcept { map(x, x, n, Clamp{limit}); }
inline void exp_row(const float* x, float* y, int64_t n) noexcept { map(x, y, n, Exp()); }
inline void sigmoid_row(const float* x, float* y, int64_t n) noexcept { map(x, y, n, Sigmoid()); }

inline void activate(Activation activation, float* gate, const float* up, int64_t n) noexcept {
  switch (activation) {
    case Activation::silu: return activate_with<Silu>(gate, up, n);
    case Activation::gelu: return activate_with<Gelu>(gate, up, n);
    case Activation::gelu_tanh: return activate_with<GeluTanh>(gate, up, n);
    case Activation::relu: return activate_with<Relu>(gate, up, n);
    case Activation::relu2: return activate_with<Relu2>(gate, up, n);
    case Activation::identity: return activate_with<Identity>(gate, up, n);
    case Activation::sigmoid: return activate_with<Sigmoid>(gate, up, n);
    case Activation::softplus: return activate_with<Softplus>(gate, up, n);
  }
}

struct SiluSlope {
  COTERIE_INLINE Vf operator()(Vf x) const {
    const Vf s = sigmoid(x);
    return fma(mul(x, s), sub(set(1.0f), s), s);
  }
};
struct GeluSlope {
  COTERIE_INLINE Vf operator()(Vf x) const {
    const Vf cumulative = mul(set(0.5f), add(set(1.0f), erf(mul(x, set(0.70710678118654752f)))));
    const Vf density = mul(set(0.39894228040143268f), exp(mul(set(-0.5f), mul(x, x))));
    return fma(x, density, cumulative);
  }
};
struct GeluTanhSlope {
  COTERIE_INLINE Vf operator()(Vf x) const {
    const Vf square = mul(x, x), c = set(0.79788456080286536f);
    const Vf t = tanh(mul(c, fma(mul(square, x), set(0.044715f), x)));
    const Vf inner = mul(c, fma(square, set(3 * 0.044715f), set(1.0f)));
    const Vf half = mul(set(0.5f), add(set(1.0f), t));
    return fma(mul(mul(set(0.5f), x), sub(set(1.0f), mul(t, t))), inner, half);
  }
};
struct ReluSlope {
  COTERIE_INLINE Vf operator()(Vf x) const { return select(less(zero(), x), set(1.0f), zero()); }
};
struct Relu2Slope {
  COTERIE_INLINE Vf operator()(Vf x) const { return mul(set(2.0f), max(zero(), x)); }
};
struct SigmoidSlope {
  COTERIE_INLINE Vf operator()(Vf x) const {
    const Vf s = sigmoid(x);
    return mul(s, sub(set(1.0f), s));
  }
};
struct One {
  COTERIE_INLINE Vf operator()(Vf) const { return set(1.0f); }
};
template <typename F, typename Slope>
COTERIE_INLINE void value_and_slope(const float* x, float* value, float* slope, int64_t n) {
  map(x, value, n, F());
  map(x, slope, n, Slope());
}

inline void activation_slope(Activation activation, const float* x, float* value, float* slope, int64_t n) noexcept {
  switch (activation) {
    case Activation::silu: return value_and_slope<Silu, SiluSlope>(x, value, slope, n);
    case Activation::gelu: return value_and_slope<Gelu, GeluSlope>(x, value, slope, n);
    case Activation::gelu_tanh: return value_and_slope<GeluTanh, GeluTanhSlope>(x, value, slope, n);
    case Activation::relu: return value_and_slope<Relu, ReluSlope>(x, value, slope, n);
    case Activation::relu2: return value_and_slope<Relu2, Relu2Slope>(x, value, slope, n);
    case Activation::identity: return value_and_slope<Identity, One>(x, value, slope, n);
    case Activation::sigmoid: return value_and_slope<Sigmoid, SigmoidSlope>(x, value, slope, n);
    case Activation::softplus: return value_and_slope<Softplus, Sigmoid>(x, value, slope, n);
  }
}

inline void softmax(float* x, int64_t n) noexcept {
  const float m = largest(x, n);
  map(x, x, n, ExpFrom{m});
  double total = 0;
  for (int64_t i = 0; i < n; i += 1024) {
    total += static_cast<double>(sum_of(x + i, n - i < 1024 ? n - i : 1024, 0, PlusValue()));
  }
  map(x, x, n, Scale{static_cast<float>(1.0 / total)});
}

inline void log_softmax(float* x, int64_t n) noexcept {
  const float m = largest(x, n);
  const double total = sum_of_exp(x, n, m);
  // In two steps, so that a large maximum does not swallow the digits of the logarithm.
  map(x, x, n, Subtract{m});
  map(x, x, n, Subtract{static_cast<float>(__builtin_log(total))});
}

inline int64_t argmax(const float* x, int64_t n) noexcept {
  const float m = largest(x, n);
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] == m) return i;
  }
  return 0;  // nothing but NaN
}

inline void rope_angles(const float* frequency, float position, float magnitude, float* cosine, float* sine,
                        int64_t n) noexcept {
  for (int64_t i = 0; i < n; i += kWidthDouble) {
    const int64_t part = n - i < kWidthDouble ? n - i : kWidthDouble;
    float angle[kWidthDouble] = {}, c[kWidthDouble], s[kWidthDouble];
    for (int64_t j = 0; j < part; ++j) angle[j] = position * frequency[i + j];
    Vd sines, cosines;
    sine_cosine(load_wide(angle), &sines, &cosines);
    store_narrow(c, cosines);
    store_narrow(s, sines);
    for (int64_t j = 0; j < part; ++j) cosine[i + j] = c[j] * magnitude, sine[i + j] = s[j] * magnitude;
  }
}

inline void rope_half(float* x, const float* cosine, const float* sine, int64_t half) noexcept {
  int64_t i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    const Vf c = load(cosine + i), s = load(sine + i), a = load(x + i), b = load(x + half + i);
    store(x + i, sub(mul(a, c), mul(b, s)));
    store(x + half + i, add(mul(b, c), mul(a, s)));
  }
  if (const int64_t n = half - i; n > 0) {
    const Vf c = load_first(cosine + i, n), s = load_first(sine + i, n);
    const Vf a = load_first(x + i, n), b = load_first(x + half + i, n);
    store_first(x + i, sub(mul(a, c), mul(b, s)), n);
    store_first(x + half + i, add(mul(b, c), mul(a, s)), n);
  }
}

inline void rope_interleaved(float* x, const float* cosine, const float* sine, int64_t half) noexcept {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosine[i] - b * sine[i];
    x[2 * i + 1] = b * cosine[i] + a * sine[i];
  }
}

template <typename From, typename To>
COTERIE_INLINE void convert(const From* x, To* y, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, load(x + i));
  if (i < n) store_first(y + i, load_first(x + i, n - i), n - i);
}
inline void f16_to_f32(const uint16_t* x, float* y, int64_t n) noexcept {
  convert(reinterpret_cast<const Half*>(x), y, n);
}
inline void f32_to_f16(const float* x, uint16_t* y, int64_t n) noexcept { convert(x, reinterpret_cast<Half*>(y), n); }
inline void bf16_to_f32(const uint16_t* x, float* y, int64_t n) noexcept {
  convert(reinterpret_cast<const Bfloat*>(x), y, n);
}
inline void f32_to_bf16(const float* x, uint16_t* y, int64_t n) noexcept {
  convert(x, reinterpret_cast<Bfloat*>(y), n);
}

constinit const VectorKernels vector_kernels = {
    rms_norm,         layer_norm,       add_scaled,  scale,      softcap,     clamp,      activate,
    activation_slope, exp_row,          sigmoid_row, softmax,    log_softmax, argmax,     rope_angles,
    rope_half,        rope_interleaved, f16_to_f32,  f32_to_f16, bf16_to_f32, f32_to_bf16};
