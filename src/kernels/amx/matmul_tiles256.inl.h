// Many tokens by the 256-value formats with AMX: 16 rows of the weights by 16 tokens by 64 values in one instruction.
// It sums products of bytes, so the scale of a sub-block must be in the codes already. code * scale has up to 13 bits;
// it comes as two planes of bytes,
//   kSplitScale    scale = 8 * high + low:            code * low and code * high, of unsigned codes (q4_k, q5_k)
//   kWhole         code * scale is a byte             (q2_k)
//   kSplitProduct  code * scale = 128 * high + low    (signed: q6_k, q3_k, iq4_xs)
// whose sums over the whole block, put together, are the integer that every other kernel has. A panel's planes are laid
// out as tiles (16 groups of four values, each of 16 rows), which is how panels lie anyway, and never leave the first
// cache: all tokens pass while a block of a panel is there.
#pragma once
#include "kernels/amx/tiles.inl.h"
#include "kernels/matmul/blocks256.inl.h"

enum class Planes { kSplitScale, kWhole, kSplitProduct };

template <class Format>
constexpr Planes planes_of() {
  if (!Format::kMin) return Planes::kSplitProduct;
  return Format::kSub == 16 ? Planes::kWhole : Planes::kSplitScale;  // q2_k: four bits by two
}

/// A block of a panel, its scales in its codes.
template <class Format>
struct TilePanel256 {
  static constexpr int kSubs = 256 / Format::kSub;
  alignas(64) uint8_t plane[2][4][kTileBytes];  // low, high; of each 64 values
  int32_t pairs[kSubs / 2][kWidth];             // mins
  float d[kWidth], dmin[kWidth];
};

/// Both halves of each lane.
COTERIE_INLINE Vi twice(Vi low_half) { return bits_or(low_half, shift<16>(low_half)); }

template <class Format>
struct StoreTiles256 {
  TilePanel256<Format>& panel;
  const Vi* scale;
  Ahead& ahead;

  template <int u>
  COTERIE_INLINE void unit(const Vi (&columns)[4]) {
    if constexpr (u % 4 == 0) fetch(ahead, (ahead.lines + 3) / 4);
    constexpr int kSub = 16 * u / Format::kSub, kTile = u / 4, kAt = u % 4 * 4 * 64;
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) {
      Vi low, high = zero_int();
      if constexpr (planes_of<Format>() == Planes::kSplitProduct) {
        const Vi offset = set_int(Format::kOffsetBits < 0 ? 0 : (1u << Format::kOffsetBits) * 0x00010001u);
        const Vi by = twice(bits_and(scale[kSub], set_int(0xffff))), byte = set_int(0x00ff00ff);
        const Vi even = _mm512_mullo_epi16(_mm512_sub_epi16(bits_and(columns[i], byte), offset), by);
        const Vi odd = _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_srli_epi16(columns[i], 8), offset), by);
        const Vi seven = set_int(0x007f007f);
        low = bits_or(bits_and(even, seven), _mm512_slli_epi16(bits_and(odd, seven), 8));
        high = and_or(_mm512_slli_epi16(_mm512_srai_epi16(odd, 7), 8), set_int(0xff00ff00),
                      bits_and(_mm512_srai_epi16(even, 7), byte));
      } else if constexpr (planes_of<Format>() == Planes::kWhole) {
        low = _mm512_mullo_epi16(columns[i], twice(scale[kSub]));  // no byte's product reaches the next byte
      } else {
        low = _mm512_mullo_epi16(columns[i], twice(bits_and(scale[kSub], set_int(7))));
        high = _mm512_mullo_epi16(columns[i], twice(shift<-3>(scale[kSub])));
      }
      store_int(panel.plane[0][kTile] + kAt + 64 * i, low);
      if constexpr (planes_of<Format>() != Planes::kWhole) store_int(panel.plane[1][kTile] + kAt + 64 * i, high);
    }
  }
};

template <class Format>
struct Tiles256 {
  static constexpr int64_t kValues = 256, kBytes = Format::kBytes;
  static constexpr int kSubs = 256 / Format::kSub, kPlanes = planes_of<Format>() == Planes::kWhole ? 1 : 2;
  static constexpr bool kSignedWeights = planes_of<Format>() == Planes::kSplitProduct;
  using Panel = TilePanel256<Format>;

  /// What a tile of tokens needs of a block besides its codes.
  struct Side {
    float d;
    int16_t sums[Format::kMin ? kSubs : 1];
  };
  static COTERIE_INLINE void take_side(const std::byte* row, int64_t block, Side& side) {
    const ActivationBlock256& x = reinterpret_cast<const ActivationBlock256*>(row)[block];
    side.d = x.d;
    if constexpr (Format::kMin) __builtin_memcpy(side.sums, pair_sums<Format>(x), sizeof(side.sums));
  }
  static COTERIE_INLINE const int8_t* codes_of(const std::byte* row, int64_t block) {
    return reinterpret_cast<const ActivationBlock256*>(row)[block].q;
  }

  template <class Source>
  static COTERIE_INLINE void unpack(Source rows, Ahead& ahead, Panel& panel) {
    Header256<kSubs> header;
    Format::header(rows, header);
    if constexpr (Format::kMin) {
      COTERIE_UNROLL
      for (int p = 0; p < kSubs / 2; ++p) store_int(panel.pairs[p], header.pairs[p]);
    }
    store(panel.d, header.d), store(panel.dmin, header.dmin);
    StoreTiles256<Format> store{panel, header.scale, ahead};
    Format::codes(rows, store);
  }

  /// sums[tile][plane] = a block's products with kTiles tiles of tokens, `a_bytes` apart.
  template <int kTiles>
  static COTERIE_INLINE void multiply(const Panel& panel, const int8_t* a, int64_t a_bytes, Sums* sums) {
    zero_sums<kTiles * kPlanes>();
    COTERIE_UNROLL
    for (int k = 0; k < 4; ++k) {
      load_tile<4>(a + 64 * k, 256);
      if constexpr (kTiles == 2) load_tile<5>(a + a_bytes + 64 * k, 256);
      load_tile<6>(panel.plane[0][k], 64);
      if constexpr (kPlanes == 2) load_tile<7>(panel.plane[1][k], 64);
      add_products<kTiles, kPlanes, kSignedWeights>();
    }
    store_sums<kTiles * kPlanes>(sums);
  }

  /// The f32 steps of `tokens` tokens.
  static COTERIE_INLINE void finish(const Panel& panel, const Sums* sums, const Side* side, int64_t tokens,
                                    float (*y)[kWidth]) {
    const Vf d = load(panel.d), dmin = load(panel.dmin);
    Vi pairs[kSubs / 2];
    if constexpr (Format::kMin) {
      COTERIE_UNROLL
      for (int p = 0; p < kSubs / 2; ++p) pairs[p] = load_int(panel.pairs[p]);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      Vi sum = load_int(sums[0].lane[t]);
      if constexpr (kPlanes == 2) {
        constexpr int kShift = planes_of<Format>() == Planes::kSplitScale ? 3 : 7;
        sum = add_int(sum, shift<kShift>(load_int(sums[1].lane[t])));
      }
      Vi min_sum = zero_int();  // of an offset it stays zero: that has left the codes before they were multiplied
      if constexpr (Format::kMin) {
        COTERIE_UNROLL
        for (int p = 0; p < kSubs / 2; ++p) min_sum = dot2(min_sum, pairs[p], broadcast4(side[t].sums + 2 * p));
      }
      store(y[t], finish256<Format>(d, dmin, sum, min_sum, side[t].d, load(y[t])));
    }
  }
};
