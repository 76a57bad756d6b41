#pragma once

#include <cstdint>

namespace coterie::kernels {

// 16-bit floats in memory, told apart by type so that load() and store() choose the conversion.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

}  // namespace coterie::kernels
