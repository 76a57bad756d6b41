// Kernels on rows for training. Included inside namespace coterie::kernels::<isa>, after math.inl.h.

COTERIE_INLINE Vf load_some(const float* p, int64_t n) { return n == kWidth ? load(p) : load_first(p, n); }
COTERIE_INLINE void store_some(float* p, Vf v, int64_t n) {
  if (n == kWidth)
    store(p, v);
  else
    store_first(p, v, n);
}

/// body(i, lanes) for each vector of a row, the last of them not full.
template <typename F>
COTERIE_INLINE void each_vector(int64_t n, const F& body) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) body(i, kWidth);
  if (i < n) body(i, n - i);
}

struct AdamWBody {
  const AdamWTask& task;
  COTERIE_INLINE void operator()(int64_t i, int64_t lanes) const {
    const Vf gradient = mul(load_some(task.gradient + i, lanes), set(task.gradient_scale));
    const Vf first = fma(set(1 - task.beta1), gradient, mul(set(task.beta1), load_some(task.first + i, lanes)));
    const Vf second =
        fma(mul(set(1 - task.beta2), gradient), gradient, mul(set(task.beta2), load_some(task.second + i, lanes)));
    const Vf step = div(mul(set(task.step_size), first), fma(sqrt(second), set(task.root_scale), set(task.eps)));
    store_some(task.first + i, first, lanes);
    store_some(task.second + i, second, lanes);
    store_some(task.weight + i, sub(mul(set(task.keep), load_some(task.weight + i, lanes)), step), lanes);
    if (task.clear) store_some(task.gradient + i, zero(), lanes);
  }
};
inline void adamw(const AdamWTask& task) noexcept { each_vector(task.n, AdamWBody{task}); }

/// act(x) and act'(x) at once.
struct Both {
  Vf value, slope;
};
struct SiluBoth {
  COTERIE_INLINE Both operator()(Vf x) const {
    const Vf s = sigmoid(x), value = mul(x, s);
    return {value, fma(value, sub(set(1.0f), s), s)};
  }
};
struct GeluBoth {
  COTERIE_INLINE Both operator()(Vf x) const {
    const Vf cumulative = mul(set(0.5f), add(set(1.0f), erf(mul(x, set(0.70710678118654752f)))));
    const Vf density = mul(set(0.39894228040143268f), exp(mul(set(-0.5f), mul(x, x))));
    return {mul(x, cumulative), fma(x, density, cumulative)};
  }
};
struct GeluTanhBoth {
  COTERIE_INLINE Both operator()(Vf x) const {
    const Vf square = mul(x, x), c = set(0.79788456080286536f);
    const Vf t = tanh(mul(c, fma(mul(square, x), set(0.044715f), x)));
    const Vf inner = mul(c, fma(square, set(3 * 0.044715f), set(1.0f)));
    const Vf half = mul(set(0.5f), add(set(1.0f), t));
    return {mul(x, half), fma(mul(mul(set(0.5f), x), sub(set(1.0f), mul(t, t))), inner, half)};
  }
};
struct ReluBoth {
  COTERIE_INLINE Both operator()(Vf x) const { return {max(zero(), x), select(less(zero(), x), set(1.0f), zero())}; }
};
struct Relu2Both {
  COTERIE_INLINE Both operator()(Vf x) const {
    const Vf r = max(zero(), x);
    return {mul(r, r), mul(set(2.0f), r)};
  }
};
struct IdentityBoth {
  COTERIE_INLINE Both operator()(Vf x) const { return {x, set(1.0f)}; }
};

struct SigmoidBoth {
  COTERIE_INLINE Both operator()(Vf x) const {
    const Vf s = sigmoid(x);
    return {s, mul(s, sub(set(1.0f), s))};
  }
};
struct SoftplusBoth {
  COTERIE_INLINE Both operator()(Vf x) const { return {softplus(x), sigmoid(x)}; }
};

template <typename F, bool kGated>
struct GateBackBody {
  const GateBackTask& task;
  Vf& along;
  COTERIE_INLINE void operator()(int64_t i, int64_t lanes) const {
    const Both act = F()(load_some(task.gate + i, lanes));
    const Vf dh = load_some(task.dh + i, lanes), d = mul(set(task.weight), dh);
    Vf h = act.value, dgate = mul(d, act.slope);
    if constexpr (kGated) {
      const Vf up = load_some(task.up + i, lanes);
      h = mul(h, up), dgate = mul(dgate, up);
      store_some(task.up + i, mul(d, act.value), lanes);
    }
    along = fma(dh, h, along);  // lanes past the end: dh is 0 there, and act of 0 finite
    store_some(task.gate + i, dgate, lanes);
    store_some(task.weighted + i, mul(set(task.weight), h), lanes);
  }
};
template <typename F>
COTERIE_INLINE float gate_back_with(const GateBackTask& task) {
  Vf along = zero();
  if (task.up)
    each_vector(task.n, GateBackBody<F, true>{task, along});
  else
    each_vector(task.n, GateBackBody<F, false>{task, along});
  return reduce_add(along);
}
inline float gate_back(const GateBackTask& task) noexcept {
  switch (task.activation) {
    case Activation::silu: return gate_back_with<SiluBoth>(task);
    case Activation::gelu: return gate_back_with<GeluBoth>(task);
    case Activation::gelu_tanh: return gate_back_with<GeluTanhBoth>(task);
    case Activation::relu: return gate_back_with<ReluBoth>(task);
    case Activation::relu2: return gate_back_with<Relu2Both>(task);
    case Activation::identity: return gate_back_with<IdentityBoth>(task);
    case Activation::sigmoid: return gate_back_with<SigmoidBoth>(task);
    case Activation::softplus: return gate_back_with<SoftplusBoth>(task);
  }
  return 0;
}

// Sums of up to 1024 products in f32, over two vectors; their sum in double.
inline float softmax_back(const float* p, float* d, float scale, int64_t n) noexcept {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += 1024) {
    const int64_t end = n - begin < 1024 ? n : begin + 1024;
    Vf a = zero(), b = zero();
    int64_t i = begin;
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
      a = fma(load(p + i), load(d + i), a);
      b = fma(load(p + i + kWidth), load(d + i + kWidth), b);
    }
    for (; i < end; i += kWidth) {
      const int64_t lanes = end - i < kWidth ? end - i : kWidth;
      a = fma(load_some(p + i, lanes), load_some(d + i, lanes), a);
    }
    total += static_cast<double>(reduce_add(add(a, b)));
  }
  const float along = static_cast<float>(total);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(d + i, mul(mul(load(p + i), sub(load(d + i), set(along))), set(scale)));
  if (i < n)
    store_first(d + i, mul(mul(load_first(p + i, n - i), sub(load_first(d + i, n - i), set(along))), set(scale)),
                n - i);
  return along;
}

inline double sum_of_squares(const float* x, int64_t n) noexcept {
  Vd sums[4] = {set_double(0), set_double(0), set_double(0), set_double(0)};
  int64_t i = 0;
  for (; i + 4 * kWidthDouble <= n; i += 4 * kWidthDouble) {
    COTERIE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const Vd value = load_wide(x + i + j * kWidthDouble);
      sums[j] = fma(value, value, sums[j]);
    }
  }
  double lanes[kWidthDouble], total = 0;
  store(lanes, add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  for (int64_t j = 0; j < kWidthDouble; ++j) total += lanes[j];
  for (; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

constinit const TrainingKernels training_kernels = {adamw, gate_back, softmax_back, sum_of_squares};
