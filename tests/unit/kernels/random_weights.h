#pragma once

#include <cstring>
#include <vector>

#include "base/rng.h"
#include "quant/blocks.h"
#include "quant/codec.h"
#include "quant/grids.h"
#include "tensor/buffer.h"
#include "tensor/half.h"
#include "tensor/view.h"

// Weights for tests: random bytes in every field of a block, except that the scales are ordinary numbers.
namespace coterie::test {

inline const std::vector<tensor::DType>& weight_dtypes() {
  static const std::vector<tensor::DType> all = [] {
    std::vector<tensor::DType> list;
    for (int i = 0; i < tensor::kDTypes; ++i)
      if (tensor::info(static_cast<tensor::DType>(i)).weight) list.push_back(static_cast<tensor::DType>(i));
    return list;
  }();
  return all;
}

inline void put_half(std::byte* at, float value) {
  const uint16_t bits = tensor::f32_to_f16(value);
  std::memcpy(at, &bits, 2);
}

/// One row of `cols` values at `row`. `fill`: what all bytes but the scales are, unless below 0.
inline void random_row(tensor::DType dtype, base::Rng& rng, int64_t cols, std::byte* row, int fill = -1) {
  using tensor::DType;
  const auto scale = [&] { return 0.01f * (0.5f + rng.uniform()) * (rng.below(2) == 0 ? 1.0f : -1.0f); };
  if (!tensor::is_block(dtype)) {
    for (int64_t i = 0; i < cols; ++i) {
      const float value = rng.normal();
      const uint16_t half = dtype == DType::f16 ? tensor::f32_to_f16(value) : tensor::f32_to_bf16(value);
      if (dtype == DType::f32) {
        std::memcpy(row + 4 * i, &value, 4);
      } else {
        std::memcpy(row + 2 * i, &half, 2);
      }
    }
    return;
  }
  const tensor::DTypeInfo& info = tensor::info(dtype);
  const bool brain = info.name.ends_with("_bf16");
  for (int64_t b = 0; b < cols / info.block_values; ++b, row += info.block_bytes) {
    for (int64_t i = 0; i < info.block_bytes; ++i)
      row[i] = static_cast<std::byte>(fill < 0 ? rng.bits() & 255 : static_cast<uint64_t>(fill));
    switch (dtype) {
      case DType::q2_k: put_half(row + 80, scale()), put_half(row + 82, scale()); break;
      case DType::q3_k: put_half(row + 108, scale()); break;
      case DType::q6_k: put_half(row + 208, scale()); break;
      case DType::tq1_0: put_half(row + 52, scale()); break;
      case DType::tq2_0: put_half(row + 64, scale()); break;
      case DType::iq1_m:
        quant::put_scale_half(tensor::f32_to_f16(scale()), *reinterpret_cast<quant::BlockIQ1_M*>(row));
        break;
      case DType::q4_1:
      case DType::q5_1:
      case DType::q4_k:
      case DType::q5_k: put_half(row, scale()), put_half(row + 2, scale()); break;
      case DType::mxfp4: row[0] = static_cast<std::byte>(rng.below(8) == 0 ? rng.below(3) : 118 + rng.below(8)); break;
      case DType::fp8_64:
      case DType::fp8_64_bf16: {
        const float value = scale();
        std::memcpy(row, &value, 4);
        break;
      }
      default:
        if (quant::is_scaled(dtype)) {
          const uint16_t bits = brain ? tensor::f32_to_bf16(scale()) : tensor::f32_to_f16(scale());
          const auto zero = static_cast<int16_t>(rng.below(info.block_bytes < 68 ? 17 : 257));
          std::memcpy(row, &bits, 2), std::memcpy(row + 2, &zero, 2);
        } else {
          put_half(row, scale());
        }
    }
  }
}

/// [rows, cols] whose rows lie `gap` bytes apart, at an address that is no multiple of anything, with 0xff before,
/// between and after: NaN in every float format, and a change of a result in any other.
class RandomWeight {
 public:
  RandomWeight(tensor::DType dtype, int64_t rows, int64_t cols, uint64_t seed, int64_t gap = 0, int fill = -1) {
    const int64_t bytes = tensor::row_bytes(dtype, cols), stride = bytes + gap;
    storage_.assign(static_cast<size_t>(rows * stride + 128), std::byte{0xff});
    std::byte* first = storage_.data() + 67;
    base::Rng rng(seed, static_cast<uint64_t>(dtype));
    for (int64_t r = 0; r < rows; ++r) random_row(dtype, rng, cols, first + r * stride, fill);
    view_ = tensor::Weight(first, dtype, rows, cols);
    view_.row_stride = stride;
  }
  const tensor::Weight& view() const { return view_; }
  operator const tensor::Weight&() const { return view_; }  // NOLINT: used as the weight it holds

 private:
  std::vector<std::byte> storage_;
  tensor::Weight view_;
};

/// rows x cols of N(0, 1), with a few large values as activations have them.
inline std::vector<float> random_values(int64_t count, uint64_t seed) {
  base::Rng rng(seed, 77);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = rng.normal() * (rng.below(40) == 0 ? 8.0f : 1.0f);
  return values;
}

}  // namespace coterie::test
