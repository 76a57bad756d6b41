#include "tensor/dtype.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "base/error.h"

namespace coterie::tensor {

namespace {
// In the order of the enum. Layouts of the block formats: quant/blocks.h.
constexpr std::array<DTypeInfo, kDTypes> kInfo = {{
    {"f32", 1, 4, true},
    {"f16", 1, 2, true},
    {"bf16", 1, 2, true},
    {"f64", 1, 8, false},
    {"i8", 1, 1, false},
    {"i16", 1, 2, false},
    {"i32", 1, 4, false},
    {"i64", 1, 8, false},
    {"u8", 1, 1, false},
    {"bool", 1, 1, false},
    {"f8_e4m3", 1, 1, false},
    {"f8_e5m2", 1, 1, false},
    {"q4_0", 32, 18, true},
    {"q4_1", 32, 20, true},
    {"q5_0", 32, 22, true},
    {"q5_1", 32, 24, true},
    {"q8_0", 32, 34, true},
    {"q2_k", 256, 84, true},
    {"q3_k", 256, 110, true},
    {"q4_k", 256, 144, true},
    {"q5_k", 256, 176, true},
    {"q6_k", 256, 210, true},
    {"iq4_nl", 32, 18, true},
    {"iq4_xs", 256, 136, true},
    {"mxfp4", 32, 17, true},
    {"iq2_xxs", 256, 66, true},
    {"iq2_xs", 256, 74, true},
    {"iq2_s", 256, 82, true},
    {"iq3_xxs", 256, 98, true},
    {"iq3_s", 256, 110, true},
    {"iq1_s", 256, 50, true},
    {"iq1_m", 256, 56, true},
    {"tq1_0", 256, 54, true},
    {"tq2_0", 256, 66, true},
    {"fp8_64", 64, 68, true},
    {"fp8_64_bf16", 64, 68, true},
    {"int4_64_f16", 64, 36, true},
    {"int4_32_f16", 32, 20, true},
    {"int4_64_bf16", 64, 36, true},
    {"int4_32_bf16", 32, 20, true},
    {"int8_64_f16", 64, 68, true},
    {"int8_32_f16", 32, 36, true},
    {"int8_64_bf16", 64, 68, true},
    {"int8_32_bf16", 32, 36, true},
}};
}  // namespace

const DTypeInfo& info(DType dtype) { return kInfo[static_cast<size_t>(dtype)]; }

DType dtype_by_name(std::string_view name) {
  std::string known, lower(name);  // model cards write Q4_K
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (int i = 0; i < kDTypes; ++i) {
    if (kInfo[static_cast<size_t>(i)].name == lower) return static_cast<DType>(i);
    known += (i ? ", " : "") + std::string(kInfo[static_cast<size_t>(i)].name);
  }
  base::fail(base::ErrorKind::bad_input, "dtype", "unknown type \"{}\"; known are {}", name, known);
}

int64_t row_bytes(DType dtype, int64_t values) {
  const DTypeInfo& i = info(dtype);
  base::require(values % i.block_values == 0, "tensor::row_bytes",
                "{} values are not a whole number of {} blocks of {}", values, i.name, i.block_values);
  return values / i.block_values * i.block_bytes;
}

double bits_per_value(DType dtype) {
  const DTypeInfo& i = info(dtype);
  return 8.0 * static_cast<double>(i.block_bytes) / static_cast<double>(i.block_values);
}

}  // namespace coterie::tensor
