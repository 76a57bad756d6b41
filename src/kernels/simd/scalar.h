#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/simd/half_types.h"
#include "kernels/simd/target.h"
#include "tensor/half.h"

// The SIMD vocabulary in plain C++: the oracle of kernels/body/*.inl.h, and the place to read what each word means.
// The words of integers stand in avx2.h and avx512.h alone: scalar/matmul.cpp is the oracle of kernels/matmul/*.inl.h.
namespace coterie::kernels::scalar {

inline constexpr int64_t kWidth = 4;  // lanes of a Vf; more than one so that tails and masks are exercised here too
inline constexpr int64_t kWidthDouble = 2;
inline constexpr int64_t kRegisters = 16;  // what tiles may count on

struct Vf {
  float lane[kWidth];
};
struct Vd {
  double lane[kWidthDouble];
};
struct Mask {
  bool lane[kWidth];
};

#define COTERIE_LANES for (int64_t i = 0; i < kWidth; ++i)
#define COTERIE_LANES_DOUBLE for (int64_t i = 0; i < kWidthDouble; ++i)

COTERIE_INLINE Vf set(float value) {
  Vf r;
  COTERIE_LANES r.lane[i] = value;
  return r;
}
COTERIE_INLINE Vf zero() { return set(0); }

/// The first n lanes, 0 <= n <= kWidth.
COTERIE_INLINE Mask mask_first(int64_t n) {
  Mask r;
  COTERIE_LANES r.lane[i] = i < n;
  return r;
}
/// Lanes in [begin, end); either may lie outside [0, kWidth].
COTERIE_INLINE Mask mask_range(int64_t begin, int64_t end) {
  Mask r;
  COTERIE_LANES r.lane[i] = i >= begin && i < end;
  return r;
}
COTERIE_INLINE Vf select(Mask mask, Vf yes, Vf no) {
  Vf r;
  COTERIE_LANES r.lane[i] = mask.lane[i] ? yes.lane[i] : no.lane[i];
  return r;
}

// Memory need not be aligned. The forms with a count touch only the first n lanes of memory; lanes beyond read as 0.
COTERIE_INLINE Vf load(const float* p) {
  Vf r;
  COTERIE_LANES r.lane[i] = p[i];
  return r;
}
COTERIE_INLINE Vf load(const Half* p) {
  Vf r;
  COTERIE_LANES r.lane[i] = tensor::f16_to_f32(p[i].bits);
  return r;
}
COTERIE_INLINE Vf load(const Bfloat* p) {
  Vf r;
  COTERIE_LANES r.lane[i] = tensor::bf16_to_f32(p[i].bits);
  return r;
}
COTERIE_INLINE Vf load(const Code* p) {
  Vf r;
  COTERIE_LANES r.lane[i] = static_cast<float>(p[i].bits);
  return r;
}
template <typename T>
COTERIE_INLINE Vf load_first(const T* p, int64_t n) {
  T copy[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
  return load(copy);
}
COTERIE_INLINE void store(float* p, Vf v) { COTERIE_LANES p[i] = v.lane[i]; }
COTERIE_INLINE void store(Half* p, Vf v) { COTERIE_LANES p[i].bits = tensor::f32_to_f16(v.lane[i]); }
COTERIE_INLINE void store(Bfloat* p, Vf v) { COTERIE_LANES p[i].bits = tensor::f32_to_bf16(v.lane[i]); }
template <typename T>
COTERIE_INLINE void store_first(T* p, Vf v, int64_t n) {
  T copy[kWidth];
  store(copy, v);
  for (int64_t i = 0; i < n; ++i) p[i] = copy[i];
}

#define COTERIE_BINARY(name, expression)  \
  COTERIE_INLINE Vf name(Vf a, Vf b) {    \
    Vf r;                                 \
    COTERIE_LANES r.lane[i] = expression; \
    return r;                             \
  }
COTERIE_BINARY(add, a.lane[i] + b.lane[i])
COTERIE_BINARY(sub, a.lane[i] - b.lane[i])
COTERIE_BINARY(mul, a.lane[i] * b.lane[i])
COTERIE_BINARY(div, a.lane[i] / b.lane[i])
// As x86 does: when either is NaN, the second.
COTERIE_BINARY(min, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i])
COTERIE_BINARY(max, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i])
/// The magnitude of a with the sign of b.
COTERIE_BINARY(copy_sign, std::copysign(a.lane[i], b.lane[i]))
#undef COTERIE_BINARY

/// a * b + c. Two roundings here, one where the instruction set has FMA: the reason why instruction sets agree to a
/// tolerance and not to the bit.
COTERIE_INLINE Vf fma(Vf a, Vf b, Vf c) {
  Vf r;
  COTERIE_LANES r.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
  return r;
}
COTERIE_INLINE Vf abs(Vf a) {
  Vf r;
  COTERIE_LANES r.lane[i] = std::fabs(a.lane[i]);
  return r;
}
COTERIE_INLINE Vf sqrt(Vf a) {
  Vf r;
  COTERIE_LANES r.lane[i] = std::sqrt(a.lane[i]);
  return r;
}
/// To the nearest integer, ties to even; |a| < 2^22.
COTERIE_INLINE Vf round(Vf a) {
  Vf r;
  COTERIE_LANES r.lane[i] = (a.lane[i] + 0x1.8p23f) - 0x1.8p23f;
  return r;
}
COTERIE_INLINE Mask less(Vf a, Vf b) {
  Mask r;
  COTERIE_LANES r.lane[i] = a.lane[i] < b.lane[i];
  return r;
}
/// a * 2^n for integers -252 <= n <= 254, rounded once where the result is subnormal.
COTERIE_INLINE Vf scale_by_power(Vf a, Vf n) {
  Vf r;
  COTERIE_LANES {
    // A NaN in n comes with one in a; the comparison keeps the conversion to int defined.
    const int power = n.lane[i] == n.lane[i] ? static_cast<int>(n.lane[i]) : 0;
    const int half = power >> 1, rest = power - half;
    r.lane[i] = a.lane[i] * std::bit_cast<float>((127 + half) << 23) * std::bit_cast<float>((127 + rest) << 23);
  }
  return r;
}

// Horizontal, as a tree: lane i meets lane i + half, then half of that, ….
COTERIE_INLINE float reduce_add(Vf a) { return (a.lane[0] + a.lane[2]) + (a.lane[1] + a.lane[3]); }
COTERIE_INLINE float reduce_max(Vf a) {
  const float m = a.lane[0] > a.lane[2] ? a.lane[0] : a.lane[2];
  const float n = a.lane[1] > a.lane[3] ? a.lane[1] : a.lane[3];
  return m > n ? m : n;
}

// Doubles: what angles need.
COTERIE_INLINE Vd set_double(double value) {
  Vd r;
  COTERIE_LANES_DOUBLE r.lane[i] = value;
  return r;
}
/// kWidthDouble floats, widened; and back, rounded.
COTERIE_INLINE Vd load_wide(const float* p) {
  Vd r;
  COTERIE_LANES_DOUBLE r.lane[i] = p[i];
  return r;
}
COTERIE_INLINE void store_narrow(float* p, Vd v) { COTERIE_LANES_DOUBLE p[i] = static_cast<float>(v.lane[i]); }
COTERIE_INLINE void store(double* p, Vd v) { COTERIE_LANES_DOUBLE p[i] = v.lane[i]; }
#define COTERIE_BINARY(name, expression)         \
  COTERIE_INLINE Vd name(Vd a, Vd b) {           \
    Vd r;                                        \
    COTERIE_LANES_DOUBLE r.lane[i] = expression; \
    return r;                                    \
  }
COTERIE_BINARY(add, a.lane[i] + b.lane[i])
COTERIE_BINARY(sub, a.lane[i] - b.lane[i])
COTERIE_BINARY(mul, a.lane[i] * b.lane[i])
#undef COTERIE_BINARY
COTERIE_INLINE Vd fma(Vd a, Vd b, Vd c) { return add(mul(a, b), c); }
/// To the nearest integer; |a| < 2^51.
COTERIE_INLINE Vd round(Vd a) {
  Vd r;
  COTERIE_LANES_DOUBLE r.lane[i] = (a.lane[i] + 0x1.8p52) - 0x1.8p52;
  return r;
}
/// Where test is not 0, yes; else no.
COTERIE_INLINE Vd select_nonzero(Vd test, Vd yes, Vd no) {
  Vd r;
  COTERIE_LANES_DOUBLE r.lane[i] = test.lane[i] != 0 ? yes.lane[i] : no.lane[i];
  return r;
}

#undef COTERIE_LANES
#undef COTERIE_LANES_DOUBLE

}  // namespace coterie::kernels::scalar
