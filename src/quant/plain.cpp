#include <cstring>

#include "quant/formats.h"
#include "tensor/half.h"

// f32, f16, bf16. Tensors in a file may lie at odd addresses, hence memcpy.
namespace coterie::quant {

void decode_f32(const std::byte* source, float* target, int64_t count) {
  std::memcpy(target, source, static_cast<size_t>(count) * sizeof(float));
}

void decode_f16(const std::byte* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, source + 2 * i, 2);
    target[i] = tensor::f16_to_f32(half);
  }
}

void decode_bf16(const std::byte* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, source + 2 * i, 2);
    target[i] = tensor::bf16_to_f32(half);
  }
}

}  // namespace coterie::quant
