#include "quant/rows.h"

#include <string_view>
#include <vector>

#include "quant/codec.h"

namespace coterie::quant {

void decode_row(const tensor::Weight& weight, int64_t r, float* values) {
  if (!weight.columns) return decode(weight.dtype, weight.row(r), values, weight.cols);
  std::vector<float> as_stored(static_cast<size_t>(weight.cols));
  decode(weight.dtype, weight.row(r), as_stored.data(), weight.cols);
  for (int64_t c = 0; c < weight.cols; ++c) values[weight.columns[c]] = as_stored[static_cast<size_t>(c)];
}

Rounding rounding_of(tensor::DType dtype) {
  const std::string_view name = tensor::name(dtype);
  if (!is_scaled(dtype)) return Rounding::none;
  return name.ends_with("_bf16") ? Rounding::bf16 : name.ends_with("_f16") ? Rounding::f16 : Rounding::none;
}

}  // namespace coterie::quant
