#pragma once

#include <cstdint>
#include <string_view>

namespace coterie::tensor {

/// Element types of tensors in files and memory. The q*, iq*, tq* and mx* ones are GGUF block formats: a row is a
/// sequence of blocks, so its length is a multiple of block_values.
enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  f64,
  i8,
  i16,
  i32,
  i64,
  u8,
  boolean,
  f8_e4m3,
  f8_e5m2,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  iq1_s,
  iq1_m,
  tq1_0,
  tq2_0,
  // Blocks that quantised safetensors are put together to (quant/scaled_blocks.h): in memory only.
  fp8_64,
  fp8_64_bf16,
  int4_64_f16,
  int4_32_f16,
  int4_64_bf16,
  int4_32_bf16,
  int8_64_f16,
  int8_32_f16,
  int8_64_bf16,
  int8_32_bf16,
};
inline constexpr int kDTypes = static_cast<int>(DType::int8_32_bf16) + 1;

struct DTypeInfo {
  std::string_view name;  // "q4_k"
  int64_t block_values;   // values a block holds; 1 for plain types
  int64_t block_bytes;
  bool weight;  // may be a weight of a matmul
};

const DTypeInfo& info(DType dtype);
inline std::string_view name(DType dtype) { return info(dtype).name; }
inline bool is_block(DType dtype) { return info(dtype).block_values > 1; }
/// In either case. Throws bad_input with the list of known names.
DType dtype_by_name(std::string_view name);

/// Bytes of a row of `values` values; `values` must be a multiple of block_values.
int64_t row_bytes(DType dtype, int64_t values);
/// Average bits a value takes: 4.5 for q4_k.
double bits_per_value(DType dtype);

}  // namespace coterie::tensor
