#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/blocks.h"
#include "quant/scaled_blocks.h"

// Inside the room: a decoder and an encoder for each format.
namespace coterie::quant {

void decode_f32(const std::byte* source, float* target, int64_t count);
void decode_f16(const std::byte* source, float* target, int64_t count);
void decode_bf16(const std::byte* source, float* target, int64_t count);

void decode_blocks(const BlockQ4_0* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ4_1* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ5_0* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ5_1* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ8_0* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ2_K* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ3_K* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ4_K* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ5_K* source, float* target, int64_t blocks);
void decode_blocks(const BlockQ6_K* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ4_NL* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ4_XS* source, float* target, int64_t blocks);
void decode_blocks(const BlockMXFP4* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ2_XXS* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ2_XS* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ2_S* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ3_XXS* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ3_S* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ1_S* source, float* target, int64_t blocks);
void decode_blocks(const BlockIQ1_M* source, float* target, int64_t blocks);
void decode_blocks(const BlockTQ1_0* source, float* target, int64_t blocks);
void decode_blocks(const BlockTQ2_0* source, float* target, int64_t blocks);

template <int kValues>
void decode_fp8(const BlockFp8<kValues>* source, float* target, int64_t blocks, Rounding rounding);
template <int kBits, int kValues>
void decode_int(const BlockInt<kBits, kValues>* source, float* target, int64_t blocks, Rounding rounding);

void encode_f32(const float* source, std::byte* target, int64_t count);
void encode_f16(const float* source, std::byte* target, int64_t count);
void encode_bf16(const float* source, std::byte* target, int64_t count);

// Encodes finite values; `importance` is a weight for each value or null.
void encode_block(const float* x, const float* importance, BlockQ4_0& block);
void encode_block(const float* x, const float* importance, BlockQ4_1& block);
void encode_block(const float* x, const float* importance, BlockQ5_0& block);
void encode_block(const float* x, const float* importance, BlockQ5_1& block);
void encode_block(const float* x, const float* importance, BlockQ8_0& block);
void encode_block(const float* x, const float* importance, BlockQ2_K& block);
void encode_block(const float* x, const float* importance, BlockQ3_K& block);
void encode_block(const float* x, const float* importance, BlockQ4_K& block);
void encode_block(const float* x, const float* importance, BlockQ5_K& block);
void encode_block(const float* x, const float* importance, BlockQ6_K& block);
void encode_block(const float* x, const float* importance, BlockIQ4_NL& block);
void encode_block(const float* x, const float* importance, BlockIQ4_XS& block);
void encode_block(const float* x, const float* importance, BlockMXFP4& block);

/// Half precision, rounded to nearest even. Throws bad_input where that would be infinite.
uint16_t checked_half(float value);

}  // namespace coterie::quant
