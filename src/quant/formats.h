#pragma once

#include <cstdint>

#include "quant/blocks.h"

// Inside the room: one decoder a format, over `count` values (a multiple of the block), and one encoder over one
// block, as codec.cpp's table wants them.
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

}  // namespace coterie::quant
