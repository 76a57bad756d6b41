// Elementary functions on the SIMD vocabulary. Included inside namespace coterie::kernels::<isa>. Polynomials are
// minimax fits (Remez) of the given intervals, error measured against 40 digits; all arithmetic is f32.

/// At most 1.01 ulp. 0 below -104, infinity above 88.73, NaN stays.
COTERIE_INLINE Vf exp(Vf x) {
  x = max(set(-104.0f), min(set(89.0f), x));  // operands in this order let a NaN through
  const Vf n = round(mul(x, set(0x1.715476p+0f)));
  // ln 2 in two parts, the first with 9 bits: n times it is exact.
  Vf r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  // (exp(r) - 1 - r) / r² on |r| <= ln(2)/2, error 3e-9 of the result.
  Vf q = set(0x1.6db4eap-10f);
  q = fma(q, r, set(0x1.123bdep-7f));
  q = fma(q, r, set(0x1.55545ep-5f));
  q = fma(q, r, set(0x1.55548ep-3f));
  q = fma(q, r, set(0.5f));
  const Vf y = add(set(1.0f), fma(mul(r, r), q, r));
  return scale_by_power(y, n);
}

COTERIE_INLINE Vf sigmoid(Vf x) { return div(set(1.0f), add(set(1.0f), exp(sub(zero(), x)))); }

COTERIE_INLINE Vf tanh(Vf x) {
  const Vf a = abs(x);
  // Above 0.625 by exp; below, where that would cancel, (tanh(x) - x) / x³ in x², error 4e-9.
  const Vf large = sub(set(1.0f), div(set(2.0f), add(exp(add(a, a)), set(1.0f))));
  const Vf z = mul(x, x);
  Vf p = set(-0x1.76ac2ep-8f);
  p = fma(p, z, set(0x1.5256dcp-6f));
  p = fma(p, z, set(-0x1.b8444ap-5f));
  p = fma(p, z, set(0x1.110768p-3f));
  p = fma(p, z, set(-0x1.555534p-2f));
  const Vf small = fma(mul(p, z), a, a);
  return copy_sign(select(less(a, set(0.625f)), small, large), x);
}

COTERIE_INLINE Vf erf(Vf x) {
  const Vf a = abs(x);
  const Vf z = mul(x, x);
  // erf(x) / x in x², |x| < 0.95, error 6e-10.
  Vf p = set(0x1.574ec8p-14f);
  p = fma(p, z, set(-0x1.a88d8ap-11f));
  p = fma(p, z, set(0x1.549664p-8f));
  p = fma(p, z, set(-0x1.b80962p-6f));
  p = fma(p, z, set(0x1.ce2dcap-4f));
  p = fma(p, z, set(-0x1.812742p-2f));
  p = fma(p, z, set(0x1.20dd76p+0f));
  // -log(erfc(x)) / x on [0.9, 4], error 3e-10 of erf; erf(4) rounds to 1.
  const Vf t = min(set(4.0f), a);
  Vf q = set(0x1.59ab12p-18f);
  q = fma(q, t, set(-0x1.9458eep-15f));
  q = fma(q, t, set(-0x1.2e8b5ap-15f));
  q = fma(q, t, set(0x1.7b19a2p-9f));
  q = fma(q, t, set(-0x1.7279acp-6f));
  q = fma(q, t, set(0x1.aee942p-4f));
  q = fma(q, t, set(0x1.4574c6p-1f));
  q = fma(q, t, set(0x1.20e852p+0f));
  const Vf large = sub(set(1.0f), exp(sub(zero(), mul(q, t))));
  return copy_sign(select(less(a, set(0.95f)), mul(p, a), large), x);
}

/// Both functions in double, error below 1e-14 for |x| < 2^31.
COTERIE_INLINE void sine_cosine(Vd x, Vd* sine, Vd* cosine) {
  const Vd n = round(mul(x, set_double(0.63661977236758134308)));
  // pi/2 in two parts, the first with 33 bits: n times it is exact up to n = 2^20 even without a fused multiply-add.
  Vd r = fma(n, set_double(-1.57079632673412561417e+00), x);
  r = fma(n, set_double(-6.07710050650619224932e-11), r);
  const Vd z = mul(r, r);
  // Taylor series to r^15 and r^16 on |r| <= pi/4: the next terms are below 1e-16.
  Vd s = set_double(-1.0 / 1307674368000.0);
  s = fma(s, z, set_double(1.0 / 6227020800.0));
  s = fma(s, z, set_double(-1.0 / 39916800.0));
  s = fma(s, z, set_double(1.0 / 362880.0));
  s = fma(s, z, set_double(-1.0 / 5040.0));
  s = fma(s, z, set_double(1.0 / 120.0));
  s = fma(s, z, set_double(-1.0 / 6.0));
  s = fma(mul(s, z), r, r);
  Vd c = set_double(1.0 / 20922789888000.0);
  c = fma(c, z, set_double(-1.0 / 87178291200.0));
  c = fma(c, z, set_double(1.0 / 479001600.0));
  c = fma(c, z, set_double(-1.0 / 3628800.0));
  c = fma(c, z, set_double(1.0 / 40320.0));
  c = fma(c, z, set_double(-1.0 / 720.0));
  c = fma(c, z, set_double(1.0 / 24.0));
  c = fma(c, z, set_double(-0.5));
  c = fma(c, z, set_double(1.0));
  // Quarter turns: k = n mod 4 in {-2, -1, 0, 1, 2}, all in doubles.
  const Vd k = sub(n, mul(set_double(4.0), round(mul(n, set_double(0.25)))));
  const Vd odd = sub(n, mul(set_double(2.0), round(mul(n, set_double(0.5)))));
  const Vd sin_size = select_nonzero(odd, c, s), cos_size = select_nonzero(odd, s, c);
  // sin: k = 0, 1 keep the sign, 2, -1, -2 flip it. cos: 0, -1 keep it, 1, 2, -2 flip it.
  const Vd one = set_double(1.0), minus = set_double(-1.0);
  const Vd sin_sign = select_nonzero(mul(k, sub(k, one)), minus, one);
  const Vd cos_sign = select_nonzero(mul(k, add(k, one)), minus, one);
  *sine = mul(sin_size, sin_sign);
  *cosine = mul(cos_size, cos_sign);
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
