#include <cmath>
#include <cstring>

#include "base/error.h"
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

void encode_f32(const float* source, std::byte* target, int64_t count) {
  std::memcpy(target, source, static_cast<size_t>(count) * sizeof(float));
}

void encode_f16(const float* source, std::byte* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = checked_half(source[i]);
    std::memcpy(target + 2 * i, &half, 2);
  }
}

void encode_bf16(const float* source, std::byte* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = tensor::f32_to_bf16(source[i]);
    std::memcpy(target + 2 * i, &half, 2);
  }
}

uint16_t checked_half(float value) {
  const uint16_t half = tensor::f32_to_f16(value);
  if ((half & 0x7fff) == 0x7c00 && !std::isinf(value))
    base::fail(base::ErrorKind::bad_input, "quant::encode", "{} is beyond half precision (65504)", value);
  return half;
}

}  // namespace coterie::quant
