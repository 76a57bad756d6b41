#pragma once

#include <cstdint>

namespace coterie::kernels {

// What is narrower than f32 in memory, told apart by type so that load() and store() choose the conversion.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};
// A code of 8 bits, which something else scales.
struct Code {
  int8_t bits;
};

}  // namespace coterie::kernels
