#include "quant/codec.h"

#include "base/error.h"
#include "quant/formats.h"

namespace coterie::quant {

using tensor::DType;

namespace {

template <typename Block>
void decode_as(DType dtype, const std::byte* source, float* target, int64_t count) {
  decode_blocks(reinterpret_cast<const Block*>(source), target, count / tensor::info(dtype).block_values);
}

}  // namespace

void decode(DType dtype, const std::byte* source, float* target, int64_t count) {
  base::require(count >= 0 && count % tensor::info(dtype).block_values == 0, "quant::decode",
                "{} values are no whole number of {} blocks", count, tensor::name(dtype));
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
  base::fail(base::ErrorKind::unsupported, "quant::decode", "{} is no weight format", tensor::name(dtype));
}

}  // namespace coterie::quant
