#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "quant/blocks.h"

// Least-squares fits of one group of 16 or 32 values to the levels its codes stand for. All search the same way: try
// a row of scales, quantise with each, solve for the scale (and min) that suits those codes best, keep the best pair.
namespace coterie::quant {

// Four values at a time, as compilers' vector types have it: loops over arrays of lanes were left scalar by GCC 12,
// which made the searches two to three times as slow. A sum over lanes has one order on every machine.
inline constexpr int kLanes = 4;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

inline Lanes load(const float* x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof lanes);
  return lanes;
}
inline float sum(const Lanes& a) { return (a[0] + a[2]) + (a[1] + a[3]); }

/// v cut to [low, high] and rounded to the nearest integer, ties to even; bounds below 2^22. For float and Lanes.
template <typename V>
V round_between(V v, float low, float high) {
  const V lowest = V{} + low, highest = V{} + high, magic = V{} + 12582912.0f;
  v = v > lowest ? v : lowest;
  v = v < highest ? v : highest;
  return (v + magic) - magic;
}

/// Codes kLow .. kHigh that stand for themselves.
template <int kLow_, int kHigh_>
struct IntegerLevels {
  static constexpr float kLow = kLow_, kHigh = kHigh_;
  template <typename V>
  static V nearest(V v) {
    return round_between(v, kLow, kHigh);
  }
};

/// The table of iq4_nl and iq4_xs.
struct Iq4Levels {
  static constexpr float kLow = -127, kHigh = 113;
  template <typename V>
  static V nearest(V v) {
    V level = V{} + static_cast<float>(kIq4Values[0]);
    for (size_t i = 1; i < kIq4Values.size(); ++i) {
      const V middle = V{} + 0.5f * static_cast<float>(kIq4Values[i - 1] + kIq4Values[i]);
      level = v > middle ? V{} + static_cast<float>(kIq4Values[i]) : level;
    }
    return level;
  }
};

/// Codes 0 .. kTop.
template <int kTop>
using AffineLevels = IntegerLevels<0, kTop>;

struct ScaleSums {
  float xq, qq;  // sum of w x q and of w q q
  /// By how much the best scale for these codes lowers the squared error below that of all zeros.
  float gain() const { return qq > 0 ? xq * xq / qq : 0; }
};

/// The sums for the codes that `inverse` (1 / scale) gives.
template <typename Levels>
ScaleSums scale_sums(const float* x, const float* w, int n, float inverse) {
  Lanes xq{}, qq{};
  for (int i = 0; i < n; i += kLanes) {
    const Lanes value = load(x + i), q = Levels::nearest(value * inverse), wq = load(w + i) * q;
    xq += wq * value;
    qq += wq * q;
  }
  return {sum(xq), sum(qq)};
}

inline float largest_magnitude(const float* x, int n) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

/// d such that sum w (x - d q)^2 is least over q in Levels. 0 when all x are (nearly) 0. `steps` scales of each sign
/// are tried, from one that leaves the outermost level unused to one that clips by a fifth.
template <typename Levels>
float fit_scale(const float* x, const float* w, int n, int steps) {
  const float largest = largest_magnitude(x, n);
  if (largest < 1e-30f) return 0;
  constexpr float kReach = -Levels::kLow;  // the longer side of the levels
  const float first = kReach - std::max(1.0f, 0.3f * kReach), last = kReach + std::max(0.6f, 0.2f * kReach);
  float best_gain = -1, best = 0;
  const auto consider = [&](float inverse) {
    const ScaleSums sums = scale_sums<Levels>(x, w, n, inverse);
    const float gain = sums.gain();
    const bool better = gain > best_gain;
    if (better) best_gain = gain, best = sums.qq > 0 ? sums.xq / sums.qq : 0;
    return better;
  };
  for (int step = 0; step < steps; ++step) {
    const float reach = first + (last - first) * static_cast<float>(step) / static_cast<float>(steps - 1);
    consider(reach / largest);
    consider(-reach / largest);
  }
  for (int round = 0; round < 4 && best != 0 && consider(1 / best);) ++round;
  return best;
}

/// sum w (x - d q)^2 with the best codes for d.
template <typename Levels>
float scale_error(const float* x, const float* w, int n, float d) {
  const float inverse = d != 0 ? 1 / d : 0;
  Lanes error{};
  for (int i = 0; i < n; i += kLanes) {
    const Lanes value = load(x + i), rest = value - Levels::nearest(value * inverse) * d;
    error += load(w + i) * rest * rest;
  }
  return sum(error);
}

/// x ~ d q - m with q in 0 .. kTop and m >= 0.
struct Affine {
  float d = 0, m = 0;
};

template <int kTop>
float affine_error(const float* x, const float* w, int n, Affine fit) {
  const float inverse = fit.d > 0 ? 1 / fit.d : 0;
  Lanes error{};
  for (int i = 0; i < n; i += kLanes) {
    const Lanes value = load(x + i), q = AffineLevels<kTop>::nearest((value + fit.m) * inverse);
    const Lanes rest = value - (q * fit.d - fit.m);
    error += load(w + i) * rest * rest;
  }
  return sum(error);
}

/// A solved fit and by how much it lowers the squared error below that of all zeros, codes held.
struct SolvedAffine {
  Affine fit;
  float gain = 0;
};

/// The d and m that suit the codes of `fit` best. A min below 0 cannot be stored: then m = 0.
template <int kTop>
SolvedAffine refit_affine(const float* x, const float* w, int n, Affine fit) {
  const float inverse = fit.d > 0 ? 1 / fit.d : 0;
  Lanes sw{}, sx{}, sq{}, sqq{}, sxq{};
  for (int i = 0; i < n; i += kLanes) {
    const Lanes value = load(x + i), weight = load(w + i);
    const Lanes q = AffineLevels<kTop>::nearest((value + fit.m) * inverse), wq = weight * q;
    sw += weight;
    sx += weight * value;
    sq += wq;
    sqq += wq * q;
    sxq += wq * value;
  }
  const float w_ = sum(sw), x_ = sum(sx), q_ = sum(sq), qq = sum(sqq), xq = sum(sxq);
  const float determinant = w_ * qq - q_ * q_;
  if (determinant > 0) {
    const Affine solved{(w_ * xq - x_ * q_) / determinant, (q_ * xq - qq * x_) / determinant};
    if (solved.m >= 0 && solved.d > 0) return {solved, solved.d * xq - solved.m * x_};
  }
  const float d = qq > 0 ? std::max(0.0f, xq / qq) : 0;
  return {{d, 0}, d * xq};
}

/// The best affine fit found from 4 * `steps` ranges: from the whole spread of x to ones that clip an end or both.
template <int kTop>
Affine fit_affine(const float* x, const float* w, int n, int steps) {
  float low = 0, high = x[0];
  for (int i = 0; i < n; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
  if (high - low < 1e-30f) return {0, -low};
  SolvedAffine best;
  best.gain = -1;
  const auto consider = [&](Affine fit) {
    const SolvedAffine solved = refit_affine<kTop>(x, w, n, fit);
    const bool better = solved.gain > best.gain;
    if (better) best = solved;
    return better;
  };
  consider({(high - low) / kTop, -low});
  for (int step = 1; step <= steps; ++step) {
    // Levels stretched or shrunk about an end, or about the middle, by up to a level and a half.
    const float change = 1.5f * static_cast<float>(step) / static_cast<float>(steps);
    for (const float levels : {kTop + change, kTop - 0.6f * change}) {
      const float d = (high - low) / levels;
      consider({d, -low});
      consider({d, std::max(0.0f, -low - 0.5f * (levels - kTop) * d)});
    }
  }
  for (int round = 0; round < 6 && consider(best.fit);) ++round;
  return best.fit;
}

}  // namespace coterie::quant
