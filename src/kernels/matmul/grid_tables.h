#pragma once

#include <cstdint>

#include "quant/grids.h"

// The grids as the vector kernels look them up: a byte a value, with what an instruction set adds to codes.
namespace coterie::kernels {

template <int kAdd>
struct GridTables {
  alignas(64) static constexpr auto kIq2xxs = quant::spread_grid<8>(quant::kIq2xxsCodes, quant::kIq2Magnitudes, kAdd);
  alignas(64) static constexpr auto kIq2xs = quant::spread_grid<8>(quant::kIq2xsCodes, quant::kIq2Magnitudes, kAdd);
  alignas(64) static constexpr auto kIq2s = quant::spread_grid<8>(quant::kIq2sCodes, quant::kIq2Magnitudes, kAdd);
  alignas(64) static constexpr auto kIq3xxs = quant::spread_grid<4>(quant::kIq3xxsCodes, quant::kIq3xxsMagnitudes,
                                                                    kAdd);
  alignas(64) static constexpr auto kIq3s = quant::spread_grid<4>(quant::kIq3sCodes, quant::kIq3sMagnitudes, kAdd);
  alignas(64) static constexpr auto kIq1 = quant::spread_grid<8>(quant::kIq1Codes, quant::kIq1Values, kAdd);
};

// Taken here, outside the regions of an instruction set, where no std:: function may be called.
template <int kAdd>
inline constexpr const uint8_t* kIq2xxsGrid = GridTables<kAdd>::kIq2xxs.data();
template <int kAdd>
inline constexpr const uint8_t* kIq2xsGrid = GridTables<kAdd>::kIq2xs.data();
template <int kAdd>
inline constexpr const uint8_t* kIq2sGrid = GridTables<kAdd>::kIq2s.data();
template <int kAdd>
inline constexpr const uint8_t* kIq3xxsGrid = GridTables<kAdd>::kIq3xxs.data();
template <int kAdd>
inline constexpr const uint8_t* kIq3sGrid = GridTables<kAdd>::kIq3s.data();
template <int kAdd>
inline constexpr const uint8_t* kIq1Grid = GridTables<kAdd>::kIq1.data();

/// 0x80 for numbers with an odd count of ones.
alignas(16) inline constexpr uint8_t kOddCounts[16] = {0,    0x80, 0x80, 0,    0x80, 0,    0,    0x80,
                                                       0x80, 0,    0,    0x80, 0,    0x80, 0x80, 0};
/// The first byte of each lane of 32 bits, four times.
alignas(16) inline constexpr uint8_t kFirstBytes[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};

}  // namespace coterie::kernels
