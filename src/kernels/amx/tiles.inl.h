// The tiles of AMX as the kernels here use them: 0 … 3 hold sums of 32 bits ([tile of tokens][plane]), 4 and 5 tokens
// (one a row, 64 bytes), 6 and 7 weights (16 groups of four values, of 16 rows). In assembly, because GCC's intrinsics
// make names of their arguments and so take no template's.
#pragma once

inline constexpr int64_t kTileRows = 16, kTileBytes = 1024;

/// What LDTILECFG reads.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

/// Tiles for `tokens` tokens each.
COTERIE_INLINE void configure_tiles(int64_t tokens) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i)
    shapes.row_bytes[i] = 64, shapes.rows[i] = static_cast<uint8_t>(i < 6 ? tokens : kTileRows);
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}
/// So that the system need not save them.
COTERIE_INLINE void release_tiles() { asm volatile("tilerelease"); }

template <int kTile>
COTERIE_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
COTERIE_INLINE void load_tile(const void* at, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(at), "r"(stride) : "memory");
}
template <int kTile>
COTERIE_INLINE void store_tile(void* at) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(at), "r"(int64_t{64}) : "memory");
}
/// sums += tokens (signed) x weights.
template <int kSums, int kTokens, int kWeights, bool kSignedWeights>
COTERIE_INLINE void add_product() {
  if constexpr (kSignedWeights)
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kTokens), "i"(kWeights));
  else
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kTokens), "i"(kWeights));
}

/// A tile of sums in memory: lane r of `lane[t]` is row r's of token t.
struct Sums {
  alignas(64) int32_t lane[kTileRows][kWidth];
};

template <int kCount>
COTERIE_INLINE void zero_sums() {
  zero_tile<0>();
  if constexpr (kCount > 1) zero_tile<1>();
  if constexpr (kCount > 2) zero_tile<2>(), zero_tile<3>();
}
template <int kTiles, int kPlanes, bool kSignedWeights>
COTERIE_INLINE void add_products() {
  add_product<0, 4, 6, kSignedWeights>();
  if constexpr (kTiles == 2) add_product<kPlanes, 5, 6, kSignedWeights>();
  if constexpr (kPlanes == 2) add_product<1, 4, 7, kSignedWeights>();
  if constexpr (kTiles == 2 && kPlanes == 2) add_product<3, 5, 7, kSignedWeights>();
}
/// To sums[tile * kPlanes + plane].
template <int kCount>
COTERIE_INLINE void store_sums(Sums* sums) {
  store_tile<0>(sums[0].lane);
  if constexpr (kCount > 1) store_tile<1>(sums[1].lane);
  if constexpr (kCount > 2) store_tile<2>(sums[2].lane), store_tile<3>(sums[3].lane);
}
