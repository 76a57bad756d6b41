#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "quant/blocks.h"
#include "quant/grid_codes.h"

// The codebooks of iq1, iq2 and iq3 with the integers that their codes stand for, and what else these formats say in
// integers: their values are d times a power of two times scale times q.
namespace coterie::quant {

inline constexpr std::array<uint8_t, 3> kIq2Magnitudes = {8, 25, 43};
inline constexpr std::array<uint8_t, 8> kIq3xxsMagnitudes = {4, 12, 20, 28, 36, 44, 52, 62};
inline constexpr std::array<uint8_t, 8> kIq3sMagnitudes = {1, 3, 5, 7, 9, 11, 13, 15};
inline constexpr std::array<int8_t, 3> kIq1Values = {-8, 0, 8};  // times 1/8, which their delta is

/// A grid with a byte a value, kWidth of them an entry, the first at the lowest address; `add` is added to each.
template <size_t kWidth, size_t kEntries, typename Values>
constexpr std::array<uint8_t, kWidth * kEntries> spread_grid(const std::array<uint16_t, kEntries>& codes,
                                                             const Values& values, int add) {
  constexpr unsigned kBits = 16 / kWidth;
  std::array<uint8_t, kWidth * kEntries> grid{};
  for (size_t e = 0; e < kEntries; ++e)
    for (size_t i = 0; i < kWidth; ++i)
      grid[e * kWidth + i] = static_cast<uint8_t>(values[(codes[e] >> (kBits * i)) & ((1u << kBits) - 1)] + add);
  return grid;
}

/// Seven signs and the eighth that makes the number of set bits even.
constexpr uint8_t eight_signs(uint32_t seven) {
  uint32_t parity = seven ^ (seven >> 4);
  parity ^= parity >> 2, parity ^= parity >> 1;
  return static_cast<uint8_t>(seven | ((parity & 1) << 7));
}

inline uint16_t scale_half(const BlockIQ1_M& block) {  // d
  return static_cast<uint16_t>((block.scales[0] >> 12) | ((block.scales[1] >> 12) << 4) |
                               ((block.scales[2] >> 12) << 8) | ((block.scales[3] >> 12) << 12));
}
inline void put_scale_half(uint16_t d, BlockIQ1_M& block) {
  for (int i = 0; i < 4; ++i)
    block.scales[i] = static_cast<uint16_t>((block.scales[i] & 0x0fff) | ((d >> (4 * i) & 15) << 12));
}
/// Nibble i of bytes, the low one of a byte first.
inline int nibble_of(const uint8_t* bytes, int i) { return (bytes[i / 2] >> (4 * (i % 2))) & 15; }
inline bool bit_of(const uint8_t* bytes, int i) { return ((bytes[i / 8] >> (i % 8)) & 1) != 0; }

/// q of a block's 256 values and a scale for each 16; value = d * q * scale * grid_factor(block).
struct GridIntegers {
  int16_t q[256];
  int16_t scale[16];
};
void read_grid(const BlockIQ2_XXS& block, GridIntegers& out);
void read_grid(const BlockIQ2_XS& block, GridIntegers& out);
void read_grid(const BlockIQ2_S& block, GridIntegers& out);
void read_grid(const BlockIQ3_XXS& block, GridIntegers& out);
void read_grid(const BlockIQ3_S& block, GridIntegers& out);
void read_grid(const BlockIQ1_S& block, GridIntegers& out);
void read_grid(const BlockIQ1_M& block, GridIntegers& out);
void read_grid(const BlockTQ1_0& block, GridIntegers& out);
void read_grid(const BlockTQ2_0& block, GridIntegers& out);

constexpr float grid_factor(const BlockIQ2_XXS&) { return 0.125f; }
constexpr float grid_factor(const BlockIQ2_XS&) { return 0.125f; }
constexpr float grid_factor(const BlockIQ2_S&) { return 0.125f; }
constexpr float grid_factor(const BlockIQ3_XXS&) { return 0.25f; }
constexpr float grid_factor(const BlockIQ3_S&) { return 1; }
constexpr float grid_factor(const BlockIQ1_S&) { return 0.125f; }
constexpr float grid_factor(const BlockIQ1_M&) { return 0.125f; }
constexpr float grid_factor(const BlockTQ1_0&) { return 1; }
constexpr float grid_factor(const BlockTQ2_0&) { return 1; }

}  // namespace coterie::quant
