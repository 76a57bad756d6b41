#include "quant/codec.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "quant/formats.h"

namespace coterie::quant {

using tensor::DType;

namespace {

template <typename Block>
void decode_as(DType dtype, const std::byte* source, float* target, int64_t count) {
  decode_blocks(reinterpret_cast<const Block*>(source), target, count / tensor::info(dtype).block_values);
}

template <typename Block>
void encode_as(DType dtype, const float* source, std::byte* target, int64_t count, const float* importance) {
  const int64_t length = tensor::info(dtype).block_values;
  for (int64_t i = 0; i < count; i += length, target += sizeof(Block)) {
    Block block;
    encode_block(source + i, importance ? importance + i : nullptr, block);
    std::memcpy(target, &block, sizeof block);
  }
}

void check_encodable(const float* source, int64_t count, std::span<const float> importance) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(source[i]))
      base::fail(base::ErrorKind::bad_input, "quant::encode", "value {} of the row is {}: no block format holds that",
                 i, source[i]);
  base::require(importance.empty() || static_cast<int64_t>(importance.size()) == count, "quant::encode",
                "{} weights of importance for {} values", importance.size(), count);
  for (size_t i = 0; i < importance.size(); ++i)
    if (!std::isfinite(importance[i]) || importance[i] < 0)
      base::fail(base::ErrorKind::bad_input, "quant::encode", "importance {} is {}: expected a finite number >= 0", i,
                 importance[i]);
}

// Brought to a mean of 1, so that squares times importance stay in a float's range. The floor keeps blocks that nothing
// was seen to pass through (an expert nobody was routed to) from becoming zeros.
std::vector<float> normalised(std::span<const float> importance) {
  double sum = 0;
  for (const float weight : importance) sum += weight;
  if (sum <= 0) return {};
  std::vector<float> weights(importance.begin(), importance.end());
  for (float& weight : weights)
    weight = static_cast<float>(weight * (static_cast<double>(weights.size()) / sum) + 1e-5);
  return weights;
}

}  // namespace

bool is_grid(DType dtype) {
  switch (dtype) {
    case DType::iq2_xxs:
    case DType::iq2_xs:
    case DType::iq2_s:
    case DType::iq3_xxs:
    case DType::iq3_s:
    case DType::iq1_s:
    case DType::iq1_m:
    case DType::tq1_0:
    case DType::tq2_0: return true;
    default: return false;
  }
}

bool is_scaled(DType dtype) { return dtype >= DType::fp8_64; }

void decode(DType dtype, const std::byte* source, float* target, int64_t count) {
  base::require(count >= 0 && count % tensor::info(dtype).block_values == 0, "quant::decode",
                "{} values do not divide into {} blocks", count, tensor::name(dtype));
  switch (dtype) {
    case DType::f32: return decode_f32(source, target, count);
    case DType::f16: return decode_f16(source, target, count);
    case DType::bf16: return decode_bf16(source, target, count);
    case DType::q4_0: return decode_as<BlockQ4_0>(dtype, source, target, count);
    case DType::q4_1: return decode_as<BlockQ4_1>(dtype, source, target, count);
    case DType::q5_0: return decode_as<BlockQ5_0>(dtype, source, target, count);
    case DType::q5_1: return decode_as<BlockQ5_1>(dtype, source, target, count);
    case DType::q8_0: return decode_as<BlockQ8_0>(dtype, source, target, count);
    case DType::q2_k: return decode_as<BlockQ2_K>(dtype, source, target, count);
    case DType::q3_k: return decode_as<BlockQ3_K>(dtype, source, target, count);
    case DType::q4_k: return decode_as<BlockQ4_K>(dtype, source, target, count);
    case DType::q5_k: return decode_as<BlockQ5_K>(dtype, source, target, count);
    case DType::q6_k: return decode_as<BlockQ6_K>(dtype, source, target, count);
    case DType::iq4_nl: return decode_as<BlockIQ4_NL>(dtype, source, target, count);
    case DType::iq4_xs: return decode_as<BlockIQ4_XS>(dtype, source, target, count);
    case DType::mxfp4: return decode_as<BlockMXFP4>(dtype, source, target, count);
    case DType::iq2_xxs: return decode_as<BlockIQ2_XXS>(dtype, source, target, count);
    case DType::iq2_xs: return decode_as<BlockIQ2_XS>(dtype, source, target, count);
    case DType::iq2_s: return decode_as<BlockIQ2_S>(dtype, source, target, count);
    case DType::iq3_xxs: return decode_as<BlockIQ3_XXS>(dtype, source, target, count);
    case DType::iq3_s: return decode_as<BlockIQ3_S>(dtype, source, target, count);
    case DType::iq1_s: return decode_as<BlockIQ1_S>(dtype, source, target, count);
    case DType::iq1_m: return decode_as<BlockIQ1_M>(dtype, source, target, count);
    case DType::tq1_0: return decode_as<BlockTQ1_0>(dtype, source, target, count);
    case DType::tq2_0: return decode_as<BlockTQ2_0>(dtype, source, target, count);
    case DType::fp8_64:
      return decode_fp8(reinterpret_cast<const BlockFp8<64>*>(source), target, count / 64, Rounding::none);
    case DType::fp8_64_bf16:
      return decode_fp8(reinterpret_cast<const BlockFp8<64>*>(source), target, count / 64, Rounding::bf16);
    case DType::int4_64_f16:
      return decode_int(reinterpret_cast<const BlockInt<4, 64>*>(source), target, count / 64, Rounding::f16);
    case DType::int4_32_f16:
      return decode_int(reinterpret_cast<const BlockInt<4, 32>*>(source), target, count / 32, Rounding::f16);
    case DType::int4_64_bf16:
      return decode_int(reinterpret_cast<const BlockInt<4, 64>*>(source), target, count / 64, Rounding::bf16);
    case DType::int4_32_bf16:
      return decode_int(reinterpret_cast<const BlockInt<4, 32>*>(source), target, count / 32, Rounding::bf16);
    case DType::int8_64_f16:
      return decode_int(reinterpret_cast<const BlockInt<8, 64>*>(source), target, count / 64, Rounding::f16);
    case DType::int8_32_f16:
      return decode_int(reinterpret_cast<const BlockInt<8, 32>*>(source), target, count / 32, Rounding::f16);
    case DType::int8_64_bf16:
      return decode_int(reinterpret_cast<const BlockInt<8, 64>*>(source), target, count / 64, Rounding::bf16);
    case DType::int8_32_bf16:
      return decode_int(reinterpret_cast<const BlockInt<8, 32>*>(source), target, count / 32, Rounding::bf16);
    case DType::f64:
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
    case DType::u8:
    case DType::boolean:
    case DType::f8_e4m3:
    case DType::f8_e5m2: break;
  }
  base::fail(base::ErrorKind::unsupported, "quant::decode", "{} is not a weight format", tensor::name(dtype));
}

void encode(DType dtype, const float* source, std::byte* target, int64_t count, std::span<const float> importance) {
  if (!has_encoder(dtype))
    base::fail(base::ErrorKind::unsupported, "quant::encode", "{}: {}", tensor::name(dtype),
               tensor::info(dtype).weight ? "this format can be read but not written" : "not a weight format");
  base::require(count >= 0 && count % tensor::info(dtype).block_values == 0, "quant::encode",
                "{} values do not divide into {} blocks", count, tensor::name(dtype));
  if (dtype == DType::f32) return encode_f32(source, target, count);
  if (dtype == DType::f16) return encode_f16(source, target, count);
  if (dtype == DType::bf16) return encode_bf16(source, target, count);
  check_encodable(source, count, importance);
  const std::vector<float> weights = normalised(importance);
  const float* w = weights.empty() ? nullptr : weights.data();
  switch (dtype) {
    case DType::q4_0: return encode_as<BlockQ4_0>(dtype, source, target, count, w);
    case DType::q4_1: return encode_as<BlockQ4_1>(dtype, source, target, count, w);
    case DType::q5_0: return encode_as<BlockQ5_0>(dtype, source, target, count, w);
    case DType::q5_1: return encode_as<BlockQ5_1>(dtype, source, target, count, w);
    case DType::q8_0: return encode_as<BlockQ8_0>(dtype, source, target, count, w);
    case DType::q2_k: return encode_as<BlockQ2_K>(dtype, source, target, count, w);
    case DType::q3_k: return encode_as<BlockQ3_K>(dtype, source, target, count, w);
    case DType::q4_k: return encode_as<BlockQ4_K>(dtype, source, target, count, w);
    case DType::q5_k: return encode_as<BlockQ5_K>(dtype, source, target, count, w);
    case DType::q6_k: return encode_as<BlockQ6_K>(dtype, source, target, count, w);
    case DType::iq4_nl: return encode_as<BlockIQ4_NL>(dtype, source, target, count, w);
    case DType::iq4_xs: return encode_as<BlockIQ4_XS>(dtype, source, target, count, w);
    case DType::mxfp4: return encode_as<BlockMXFP4>(dtype, source, target, count, w);
    default: break;
  }
  base::fail(base::ErrorKind::internal, "quant::encode", "{} has no case", tensor::name(dtype));
}

bool has_encoder(DType dtype) { return tensor::info(dtype).weight && !is_grid(dtype) && !is_scaled(dtype); }

}  // namespace coterie::quant
