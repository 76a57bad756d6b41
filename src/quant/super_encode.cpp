#include <cmath>
#include <cstring>
#include <limits>

#include "quant/fit.h"
#include "quant/formats.h"
#include "tensor/half.h"

// Encoding of the formats with scales of scales. Three steps: fit each sub-block alone; round its scale (and min) to
// the small integers the format stores, choosing among neighbours by the error they cause; refit the super-block's own
// scale to all codes, and round again. Least squares throughout, weighted by importance where it is given.
namespace coterie::quant {

using tensor::f16_to_f32;

namespace {

constexpr int kRounds = 2;

template <int kGroups>
struct SymmetricCodes {
  uint16_t d = 0;
  int scale[kGroups] = {};  // signed
  float total_error = std::numeric_limits<float>::infinity();
};

/// x ~ (d * scale[g]) * q. Scales lie in -kReach .. kReach - 1.
template <typename Levels, int kGroups, int kReach>
SymmetricCodes<kGroups> fit_symmetric(const float* x, const float* w, int steps) {
  constexpr int n = kSuperBlock / kGroups;
  float alone[kGroups], largest = 0;
  for (int g = 0; g < kGroups; ++g) {
    alone[g] = fit_scale<Levels>(x + n * g, w + n * g, n, steps);
    if (std::abs(alone[g]) > std::abs(largest)) largest = alone[g];
  }
  SymmetricCodes<kGroups> best;
  if (largest == 0) return best;
  float d = largest / -kReach;  // the largest scale takes the longer side of the range
  for (int round = 0; round < kRounds; ++round) {
    SymmetricCodes<kGroups> now;
    now.d = checked_half(d);
    const float stored = f16_to_f32(now.d);
    if (stored == 0) break;
    now.total_error = 0;
    float xq = 0, qq = 0;
    for (int g = 0; g < kGroups; ++g) {
      const float *xg = x + n * g, *wg = w + n * g;
      const int middle = static_cast<int>(std::lround(std::clamp(alone[g] / stored, -2.0f * kReach, 2.0f * kReach)));
      float best_error = std::numeric_limits<float>::infinity();
      for (int scale = middle - 1; scale <= middle + 1; ++scale) {
        const int kept = std::clamp(scale, -kReach, kReach - 1);
        const float error = scale_error<Levels>(xg, wg, n, stored * static_cast<float>(kept));
        if (error < best_error) best_error = error, now.scale[g] = kept;
      }
      now.total_error += best_error;
      if (now.scale[g] == 0) continue;
      const float scale = static_cast<float>(now.scale[g]);
      const ScaleSums sums = scale_sums<Levels>(xg, wg, n, 1 / (stored * scale));
      xq += scale * sums.xq;
      qq += scale * scale * sums.qq;
    }
    if (now.total_error < best.total_error) best = now;
    if (!(qq > 0)) break;
    d = xq / qq;
  }
  return best;
}

template <int kGroups>
struct AffineCodes {
  uint16_t d = 0, dmin = 0;
  int scale[kGroups] = {}, min[kGroups] = {};
  float total_error = std::numeric_limits<float>::infinity();
};

/// x ~ (d * scale[g]) * q - dmin * min[g]. Scales and mins lie in 0 .. kReach, codes in 0 .. kTop.
template <int kTop, int kGroups, int kReach>
AffineCodes<kGroups> fit_affine_super(const float* x, const float* w, int steps) {
  constexpr int n = kSuperBlock / kGroups;
  Affine alone[kGroups], largest;
  for (int g = 0; g < kGroups; ++g) {
    alone[g] = fit_affine<kTop>(x + n * g, w + n * g, n, steps);
    largest.d = std::max(largest.d, alone[g].d), largest.m = std::max(largest.m, alone[g].m);
  }
  AffineCodes<kGroups> best;
  float d = largest.d / kReach, dmin = largest.m / kReach;
  for (int round = 0; round < kRounds; ++round) {
    AffineCodes<kGroups> now;
    now.d = checked_half(d), now.dmin = checked_half(dmin);
    const float stored_d = f16_to_f32(now.d), stored_dmin = f16_to_f32(now.dmin);
    now.total_error = 0;
    // Normal equations of x = d * (scale q) - dmin * min over the whole block.
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int g = 0; g < kGroups; ++g) {
      const float *xg = x + n * g, *wg = w + n * g;
      const auto units = [](float value, float unit) {
        return unit > 0 ? static_cast<int>(std::lround(std::min(value / unit, 2.0f * kReach))) : 0;
      };
      const int scale = units(alone[g].d, stored_d), min = units(alone[g].m, stored_dmin);
      float best_error = std::numeric_limits<float>::infinity();
      for (int s = scale - 1; s <= scale + 1; ++s)
        for (int m = min - 1; m <= min + 1; ++m) {
          const int kept_s = std::clamp(s, 0, kReach), kept_m = std::clamp(m, 0, kReach);
          const float error = affine_error<kTop>(
              xg, wg, n, {stored_d * static_cast<float>(kept_s), stored_dmin * static_cast<float>(kept_m)});
          if (error < best_error) best_error = error, now.scale[g] = kept_s, now.min[g] = kept_m;
        }
      now.total_error += best_error;
      const float s = static_cast<float>(now.scale[g]), m = static_cast<float>(now.min[g]);
      const float inverse = stored_d * s > 0 ? 1 / (stored_d * s) : 0;
      for (int i = 0; i < n; ++i) {
        const double a = s * AffineLevels<kTop>::nearest((xg[i] + stored_dmin * m) * inverse), b = -m, weight = wg[i];
        aa += weight * a * a, ab += weight * a * b, bb += weight * b * b;
        xa += weight * xg[i] * a, xb += weight * xg[i] * b;
      }
    }
    if (now.total_error < best.total_error) best = now;
    const double determinant = aa * bb - ab * ab;
    if (determinant > 1e-9 * aa * bb) {
      d = static_cast<float>((xa * bb - xb * ab) / determinant);
      dmin = static_cast<float>((xb * aa - xa * ab) / determinant);
    } else if (aa > 0) {
      d = static_cast<float>(xa / aa);
    }
    if (!(d > 0) || !(dmin >= 0)) break;
  }
  return best;
}

template <int kTop, int kGroups>
void quantise(const float* x, const AffineCodes<kGroups>& codes, uint8_t* q) {
  constexpr int n = kSuperBlock / kGroups;
  for (int g = 0; g < kGroups; ++g) {
    const float d = f16_to_f32(codes.d) * static_cast<float>(codes.scale[g]);
    const float m = f16_to_f32(codes.dmin) * static_cast<float>(codes.min[g]), inverse = d > 0 ? 1 / d : 0;
    for (int i = n * g; i < n * (g + 1); ++i)
      q[i] = static_cast<uint8_t>(AffineLevels<kTop>::nearest((x[i] + m) * inverse));
  }
}

template <typename Levels, int kGroups>
void quantise(const float* x, const SymmetricCodes<kGroups>& codes, int8_t* q) {
  constexpr int n = kSuperBlock / kGroups;
  for (int g = 0; g < kGroups; ++g) {
    const float d = f16_to_f32(codes.d) * static_cast<float>(codes.scale[g]), inverse = d != 0 ? 1 / d : 0;
    for (int i = n * g; i < n * (g + 1); ++i) q[i] = static_cast<int8_t>(Levels::nearest(x[i] * inverse));
  }
}

template <int kGroups>
void to_bytes(const int (&values)[kGroups], int add, uint8_t (&bytes)[kGroups]) {
  for (int g = 0; g < kGroups; ++g) bytes[g] = static_cast<uint8_t>(values[g] + add);
}

constexpr std::array<float, kSuperBlock> make_ones() {
  std::array<float, kSuperBlock> ones{};
  for (float& one : ones) one = 1;
  return ones;
}
constexpr std::array<float, kSuperBlock> kOnes = make_ones();
const float* weights(const float* importance) { return importance ? importance : kOnes.data(); }

int iq4_code(int8_t level) {
  return static_cast<int>(std::lower_bound(kIq4Values.begin(), kIq4Values.end(), level) - kIq4Values.begin());
}

}  // namespace

void encode_block(const float* x, const float* importance, BlockQ2_K& block) {
  const auto codes = fit_affine_super<3, 16, 15>(x, weights(importance), 8);
  uint8_t q[kSuperBlock];
  quantise<3>(x, codes, q);
  block.d = codes.d, block.dmin = codes.dmin;
  for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<uint8_t>(codes.scale[g] | codes.min[g] << 4);
  for (int h = 0; h < 2; ++h)
    for (int j = 0; j < 32; ++j) {
      const uint8_t* at = q + 128 * h + j;
      block.codes[32 * h + j] = static_cast<uint8_t>(at[0] | at[32] << 2 | at[64] << 4 | at[96] << 6);
    }
}

void encode_block(const float* x, const float* importance, BlockQ4_K& block) {
  const auto codes = fit_affine_super<15, 8, 63>(x, weights(importance), 6);
  uint8_t q[kSuperBlock], scale[8], min[8];
  quantise<15>(x, codes, q);
  to_bytes(codes.scale, 0, scale), to_bytes(codes.min, 0, min);
  block.d = codes.d, block.dmin = codes.dmin;
  pack_scales_k4(scale, min, block.scales);
  for (int i = 0; i < 128; ++i) {
    const uint8_t* at = q + 64 * (i / 32) + i % 32;
    block.codes[i] = static_cast<uint8_t>(at[0] | at[32] << 4);
  }
}

void encode_block(const float* x, const float* importance, BlockQ5_K& block) {
  const auto codes = fit_affine_super<31, 8, 63>(x, weights(importance), 6);
  uint8_t q[kSuperBlock], scale[8], min[8];
  quantise<31>(x, codes, q);
  to_bytes(codes.scale, 0, scale), to_bytes(codes.min, 0, min);
  block.d = codes.d, block.dmin = codes.dmin;
  pack_scales_k4(scale, min, block.scales);
  for (int i = 0; i < 128; ++i) {
    const uint8_t* at = q + 64 * (i / 32) + i % 32;
    block.codes[i] = static_cast<uint8_t>((at[0] & 15) | (at[32] & 15) << 4);
  }
  std::memset(block.high_bits, 0, sizeof block.high_bits);
  for (int i = 0; i < kSuperBlock; ++i)
    block.high_bits[i % 32] = static_cast<uint8_t>(block.high_bits[i % 32] | (q[i] >> 4) << (i / 32));
}

void encode_block(const float* x, const float* importance, BlockQ3_K& block) {
  const auto codes = fit_symmetric<IntegerLevels<-4, 3>, 16, 32>(x, weights(importance), 16);
  int8_t q[kSuperBlock];
  uint8_t scale[16];
  quantise<IntegerLevels<-4, 3>>(x, codes, q);
  to_bytes(codes.scale, 32, scale);
  block.d = codes.d;
  pack_scales_q3_k(scale, block.scales);
  std::memset(block.codes, 0, sizeof block.codes);
  std::memset(block.high_bits, 0, sizeof block.high_bits);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int code = q[i] + 4;
    uint8_t& low = block.codes[32 * (i / 128) + i % 32];
    low = static_cast<uint8_t>(low | (code & 3) << (2 * (i % 128 / 32)));
    block.high_bits[i % 32] = static_cast<uint8_t>(block.high_bits[i % 32] | (code >> 2) << (i / 32));
  }
}

void encode_block(const float* x, const float* importance, BlockQ6_K& block) {
  const auto codes = fit_symmetric<IntegerLevels<-32, 31>, 16, 128>(x, weights(importance), 8);
  int8_t q[kSuperBlock];
  quantise<IntegerLevels<-32, 31>>(x, codes, q);
  block.d = codes.d;
  for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<int8_t>(codes.scale[g]);
  std::memset(block.low_codes, 0, sizeof block.low_codes);
  std::memset(block.high_codes, 0, sizeof block.high_codes);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int code = q[i] + 32, half = i / 128, part = i % 128 / 32, j = i % 32;
    uint8_t& low = block.low_codes[64 * half + 32 * (part % 2) + j];
    low = static_cast<uint8_t>(low | (code & 15) << (4 * (part / 2)));
    uint8_t& high = block.high_codes[32 * half + j];
    high = static_cast<uint8_t>(high | (code >> 4) << (2 * part));
  }
}

void encode_block(const float* x, const float* importance, BlockIQ4_NL& block) {
  const float* w = weights(importance);
  block.d = checked_half(fit_scale<Iq4Levels>(x, w, kSmallBlock, 16));
  const float d = f16_to_f32(block.d), inverse = d != 0 ? 1 / d : 0;
  for (int j = 0; j < 16; ++j)
    block.codes[j] = static_cast<uint8_t>(iq4_code(static_cast<int8_t>(Iq4Levels::nearest(x[j] * inverse))) |
                                          iq4_code(static_cast<int8_t>(Iq4Levels::nearest(x[j + 16] * inverse))) << 4);
}

void encode_block(const float* x, const float* importance, BlockIQ4_XS& block) {
  const auto codes = fit_symmetric<Iq4Levels, 8, 32>(x, weights(importance), 16);
  int8_t q[kSuperBlock];
  quantise<Iq4Levels>(x, codes, q);
  std::memset(&block, 0, sizeof block);
  block.d = codes.d;
  for (int g = 0; g < 8; ++g) {
    const int scale = codes.scale[g] + 32;
    block.scales_low[g / 2] = static_cast<uint8_t>(block.scales_low[g / 2] | (scale & 15) << (4 * (g % 2)));
    block.scales_high = static_cast<uint16_t>(block.scales_high | (scale >> 4) << (2 * g));
  }
  for (int i = 0; i < 128; ++i) {
    const int8_t* at = q + 32 * (i / 16) + i % 16;
    block.codes[i] = static_cast<uint8_t>(iq4_code(at[0]) | iq4_code(at[16]) << 4);
  }
}

}  // namespace coterie::quant
