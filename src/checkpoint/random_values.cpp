#include "checkpoint/random_values.h"

#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "base/error.h"
#include "quant/blocks.h"
#include "quant/codec.h"
#include "quant/grids.h"
#include "tensor/half.h"

// Blocks are made of random bytes, which are valid codes in every format; then each gets one of 256 heads (scales and
// mins) that make the mean of uniform codes zero. Random bytes that the head replaces choose it.
namespace coterie::checkpoint {

using tensor::DType;
using tensor::f16_to_f32;
using tensor::f32_to_f16;

namespace {

constexpr size_t kHeads = 256;

// Plain floats: the sum of two uniform 16-bit numbers, a triangular distribution.
float triangular(uint32_t bits) {
  return static_cast<float>(int32_t{static_cast<int16_t>(bits)} + int32_t{static_cast<int16_t>(bits >> 16)} + 1);
}
const float kTriangularDeviation = std::sqrt((0x1p32f - 1) / 6);

template <typename Stored, typename Convert>
RandomFill fill_floats(float scale, float offset, Convert convert) {
  const float factor = scale / kTriangularDeviation;
  return [=](RandomStream& stream, std::span<std::byte> target) {
    std::array<uint32_t, 1024> bits;
    while (!target.empty()) {
      const size_t count = std::min(bits.size(), target.size() / sizeof(Stored));
      stream.fill(std::as_writable_bytes(std::span(bits).first(count)));
      std::array<Stored, 1024> values;
      for (size_t i = 0; i < count; ++i) values[i] = convert(triangular(bits[i]) * factor + offset);
      std::memcpy(target.data(), values.data(), count * sizeof(Stored));
      target = target.subspan(count * sizeof(Stored));
    }
  };
}

// The head of block number `k` of 256, for a scale around 1. Formats whose codes are not centred (q4_1, the k-quants
// with mins) get the min that centres them; the others get both signs.
struct Unit {
  base::Rng rng{0x636f7465726965, 0};
  float next(int k) { return (k % 2 ? 1.0f : -1.0f) * positive(); }
  float positive() { return 0.75f + 0.5f * rng.uniform(); }
  int scale(int low, int high) { return low + static_cast<int>(rng.below(static_cast<uint32_t>(high - low + 1))); }
  int signed_scale(int low, int high) { return scale(low, high) * (rng.below(2) ? 1 : -1); }
};

template <typename Block>
void draw_head(Unit& unit, int k, Block& block) {  // q4_0, q5_0, q8_0, iq4_nl
  block.d = f32_to_f16(unit.next(k));
}
void draw_head(Unit& unit, int, quant::BlockQ4_1& block) { block.d = f32_to_f16(unit.positive()); }
void draw_head(Unit& unit, int, quant::BlockQ5_1& block) { block.d = f32_to_f16(unit.positive()); }
void draw_head(Unit& unit, int, quant::BlockQ2_K& block) {
  block.d = f32_to_f16(unit.positive());
  for (uint8_t& scale : block.scales) scale = static_cast<uint8_t>(unit.scale(8, 15) * 0x11);  // min = scale
}
void draw_head(Unit& unit, int k, quant::BlockQ3_K& block) {
  block.d = f32_to_f16(unit.next(k));
  uint8_t scales[16];
  for (uint8_t& scale : scales) scale = static_cast<uint8_t>(32 + unit.signed_scale(16, 31));
  quant::pack_scales_q3_k(scales, block.scales);
}
template <typename Block>
void draw_head_k4(Unit& unit, Block& block) {
  block.d = f32_to_f16(unit.positive());
  uint8_t scales[8];
  for (uint8_t& scale : scales) scale = static_cast<uint8_t>(unit.scale(32, 63));
  quant::pack_scales_k4(scales, scales, block.scales);  // min = scale
}
void draw_head(Unit& unit, int, quant::BlockQ4_K& block) { draw_head_k4(unit, block); }
void draw_head(Unit& unit, int, quant::BlockQ5_K& block) { draw_head_k4(unit, block); }
void draw_head(Unit& unit, int k, quant::BlockQ6_K& block) {
  block.d = f32_to_f16(unit.next(k));
  for (int8_t& scale : block.scales) scale = static_cast<int8_t>(unit.signed_scale(64, 127));
}
void draw_head(Unit& unit, int k, quant::BlockIQ4_XS& block) {
  block.d = f32_to_f16(unit.next(k));
  block.scales_high = 0;
  for (int s = 0; s < 8; ++s) {
    const int scale = 32 + unit.signed_scale(16, 31);
    const int shift = 4 * (s % 2);
    block.scales_low[s / 2] = static_cast<uint8_t>((block.scales_low[s / 2] & (0xf0 >> shift)) | (scale & 15) << shift);
    block.scales_high = static_cast<uint16_t>(block.scales_high | (scale >> 4) << (2 * s));
  }
}
template <typename Block>
void draw_nibble_scales(Unit& unit, int k, Block& block) {
  block.d = f32_to_f16(unit.next(k));
  for (uint8_t& scale : block.scales) scale = static_cast<uint8_t>(unit.scale(6, 15) | unit.scale(6, 15) << 4);
}
void draw_head(Unit& unit, int k, quant::BlockIQ2_XS& block) { draw_nibble_scales(unit, k, block); }
void draw_head(Unit& unit, int k, quant::BlockIQ2_S& block) { draw_nibble_scales(unit, k, block); }
void draw_head(Unit& unit, int k, quant::BlockIQ3_S& block) { draw_nibble_scales(unit, k, block); }
void draw_head(Unit& unit, int k, quant::BlockIQ1_M& block) {
  for (int s = 0; s < 4; ++s) {
    int scales = 0;
    for (int i = 0; i < 4; ++i) scales |= unit.scale(3, 7) << (3 * i);
    block.scales[s] = static_cast<uint16_t>(scales);
  }
  put_scale_half(f32_to_f16(unit.next(k)), block);
}

// The same head for values `factor` times as large.
void rescale(quant::BlockIQ1_M& block, float factor) {
  put_scale_half(f32_to_f16(f16_to_f32(scale_half(block)) * factor), block);
}
template <typename Block>
void rescale(Block& block, float factor) {
  const float d = f16_to_f32(block.d) * factor;
  block.d = f32_to_f16(d);
  if constexpr (requires { block.m; })  // -mean(q) * d: codes are 0..15 or 0..31
    block.m = f32_to_f16(-f16_to_f32(block.d) * (std::is_same_v<Block, quant::BlockQ4_1> ? 7.5f : 15.5f));
  if constexpr (requires { block.dmin; }) {
    constexpr float kMean = std::is_same_v<Block, quant::BlockQ2_K>   ? 1.5f
                            : std::is_same_v<Block, quant::BlockQ4_K> ? 7.5f
                                                                      : 15.5f;
    block.dmin = f32_to_f16(f16_to_f32(block.d) * kMean);
  }
}

template <typename Block>
void copy_head(const Block& from, Block& to) {
  if constexpr (requires { from.d; }) to.d = from.d;
  if constexpr (requires { from.m; }) to.m = from.m;
  if constexpr (requires { from.dmin; }) to.dmin = from.dmin;
  if constexpr (requires { from.scales; }) std::memcpy(to.scales, from.scales, sizeof to.scales);
  if constexpr (requires { from.scales_low; }) {
    std::memcpy(to.scales_low, from.scales_low, sizeof to.scales_low);
    to.scales_high = from.scales_high;
  }
}

template <typename Block>
void keep_used_codes(Block&) {}
/// Three of the four codes are used: 3 becomes 1, whose value is 0.
void keep_used_codes(quant::BlockTQ2_0& block) {
  for (uint8_t& four : block.codes) four = static_cast<uint8_t>(four & ~((four & four >> 1 & 0x55) << 1));
}

/// Heads for values of standard deviation 1/`deviation`; drawn and measured once for each format.
template <typename Block>
struct UnitHeads {
  std::array<Block, kHeads> heads{};
  double deviation = 0;

  explicit UnitHeads(DType dtype) {
    Unit unit;
    for (size_t k = 0; k < kHeads; ++k) {
      draw_head(unit, static_cast<int>(k), heads[k]);
      rescale(heads[k], 1);
    }
    RandomStream stream(0, 0);
    const int64_t length = tensor::info(dtype).block_values;
    std::vector<float> values(static_cast<size_t>(length));
    double squares = 0;
    constexpr int kRounds = 16;
    for (int round = 0; round < kRounds; ++round)
      for (const Block& head : heads) {
        Block block;
        stream.fill(std::as_writable_bytes(std::span(&block, 1)));
        copy_head(head, block);
        keep_used_codes(block);
        quant::decode(dtype, reinterpret_cast<const std::byte*>(&block), values.data(), length);
        for (const float value : values) squares += double{value} * value;
      }
    deviation = std::sqrt(squares / static_cast<double>(kRounds * kHeads) / static_cast<double>(length));
  }
};

/// A byte of those that the head replaces.
template <typename Block>
size_t random_byte(const Block& block) {
  if constexpr (requires { block.d; })
    return block.d & 0xff;
  else
    return block.scales[0] & 0xff;
}

template <typename Block>
RandomFill fill_blocks(DType dtype, float scale) {
  static const UnitHeads<Block> unit(dtype);
  auto heads = std::make_shared<std::array<Block, kHeads>>(unit.heads);
  for (Block& head : *heads) rescale(head, static_cast<float>(scale / unit.deviation));
  return [heads](RandomStream& stream, std::span<std::byte> target) {
    stream.fill(target);
    Block* blocks = reinterpret_cast<Block*>(target.data());
    for (size_t b = 0; b < target.size() / sizeof(Block); ++b) {
      copy_head((*heads)[random_byte(blocks[b])], blocks[b]);
      keep_used_codes(blocks[b]);
    }
  };
}

// An mxfp4 scale is a power of two: a mixture of two neighbours has the deviation asked for.
RandomFill fill_mxfp4(float scale) {
  double squares = 0;
  for (const int8_t value : quant::kMxfp4Values) squares += double{1.0 * value} * value / 16;
  const double wanted = scale / std::sqrt(squares);  // a scale of exactly this would do
  int exponent = 0;
  while (exponent < 253 && quant::mxfp4_scale(static_cast<uint8_t>(exponent + 1)) <= wanted) ++exponent;
  const double ratio = wanted / quant::mxfp4_scale(static_cast<uint8_t>(exponent));
  const int larger = static_cast<int>(std::lround(256 * std::max(0.0, (ratio * ratio - 1) / 3)));
  return [=](RandomStream& stream, std::span<std::byte> target) {
    stream.fill(target);
    auto* blocks = reinterpret_cast<quant::BlockMXFP4*>(target.data());
    for (size_t b = 0; b < target.size() / sizeof(quant::BlockMXFP4); ++b)
      blocks[b].exponent = static_cast<uint8_t>(exponent + (blocks[b].exponent < larger ? 1 : 0));
  };
}

}  // namespace

RandomFill random_fill(DType dtype, float scale, float offset) {
  switch (dtype) {
    case DType::f32: return fill_floats<float>(scale, offset, [](float value) { return value; });
    case DType::f16: return fill_floats<uint16_t>(scale, offset, [](float value) { return f32_to_f16(value); });
    case DType::bf16:
      return fill_floats<uint16_t>(scale, offset, [](float value) { return tensor::f32_to_bf16(value); });
    case DType::q4_0: return fill_blocks<quant::BlockQ4_0>(dtype, scale);
    case DType::q4_1: return fill_blocks<quant::BlockQ4_1>(dtype, scale);
    case DType::q5_0: return fill_blocks<quant::BlockQ5_0>(dtype, scale);
    case DType::q5_1: return fill_blocks<quant::BlockQ5_1>(dtype, scale);
    case DType::q8_0: return fill_blocks<quant::BlockQ8_0>(dtype, scale);
    case DType::q2_k: return fill_blocks<quant::BlockQ2_K>(dtype, scale);
    case DType::q3_k: return fill_blocks<quant::BlockQ3_K>(dtype, scale);
    case DType::q4_k: return fill_blocks<quant::BlockQ4_K>(dtype, scale);
    case DType::q5_k: return fill_blocks<quant::BlockQ5_K>(dtype, scale);
    case DType::q6_k: return fill_blocks<quant::BlockQ6_K>(dtype, scale);
    case DType::iq4_nl: return fill_blocks<quant::BlockIQ4_NL>(dtype, scale);
    case DType::iq4_xs: return fill_blocks<quant::BlockIQ4_XS>(dtype, scale);
    case DType::mxfp4: return fill_mxfp4(scale);
    case DType::iq2_xxs: return fill_blocks<quant::BlockIQ2_XXS>(dtype, scale);
    case DType::iq2_xs: return fill_blocks<quant::BlockIQ2_XS>(dtype, scale);
    case DType::iq2_s: return fill_blocks<quant::BlockIQ2_S>(dtype, scale);
    case DType::iq3_xxs: return fill_blocks<quant::BlockIQ3_XXS>(dtype, scale);
    case DType::iq3_s: return fill_blocks<quant::BlockIQ3_S>(dtype, scale);
    case DType::iq1_s: return fill_blocks<quant::BlockIQ1_S>(dtype, scale);
    case DType::iq1_m: return fill_blocks<quant::BlockIQ1_M>(dtype, scale);
    case DType::tq1_0: return fill_blocks<quant::BlockTQ1_0>(dtype, scale);
    case DType::tq2_0: return fill_blocks<quant::BlockTQ2_0>(dtype, scale);
    default: break;
  }
  base::fail(base::ErrorKind::unsupported, "random weights", "{} is not a weight format", tensor::name(dtype));
}

}  // namespace coterie::checkpoint
