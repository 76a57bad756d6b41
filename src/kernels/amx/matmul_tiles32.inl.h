// Many tokens by the 32-value formats with AMX. Each block has a scale of its own, so a tile holds 32 values, half of
// what it could, and every product's sums pass through memory to their f32 steps, which are what takes the time.

/// A block of a panel: its codes as signed bytes.
struct TilePanel32 {
  alignas(64) uint8_t codes[kTileBytes / 2];
  float d[kLanes], m[kLanes];
};

template <class Format>
struct StoreTile32 {
  TilePanel32& panel;
  template <int u>
  COTERIE_INLINE void unit(const Int (&columns)[4]) {
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i)
      store_int(panel.codes + 64 * (4 * u + i), sub_bytes(columns[i], set_int(0x01010101u * Format::kOffset)));
  }
};

template <class Format>
struct Tiles32 {
  static constexpr int64_t kValues = 32, kBytes = Format::kBytes;
  static constexpr int kPlanes = 1;
  using Panel = TilePanel32;

  /// What a tile of tokens needs of a block besides its codes.
  struct Side {
    float d, scaled_sum;
  };
  static COTERIE_INLINE void take_side(const std::byte* row, int64_t block, Side& side) {
    const ActivationBlock32& x = reinterpret_cast<const ActivationBlock32*>(row)[block];
    side = {x.d, x.scaled_sum};
  }
  static COTERIE_INLINE const int8_t* codes_of(const std::byte* row, int64_t block) {
    return reinterpret_cast<const ActivationBlock32*>(row)[block].q;
  }

  template <class Source>
  static COTERIE_INLINE void unpack(Source rows, Ahead& ahead, Panel& panel) {
    fetch(ahead);
    Header32 header;
    Format::header(rows, header);
    store_float(panel.d, header.d), store_float(panel.m, header.m);
    StoreTile32<Format> store{panel};
    Format::codes(rows, store);
  }

  template <int kTiles>
  static COTERIE_INLINE void multiply(const Panel& panel, const int8_t* a, int64_t a_bytes, Sums* sums) {
    zero_sums<kTiles>();
    load_tile<4>(a, kValues);
    if constexpr (kTiles == 2) load_tile<5>(a + a_bytes, kValues);
    load_tile<6>(panel.codes, 64);
    add_products<kTiles, 1, true>();
    store_sums<kTiles>(sums);
  }

  /// The f32 steps of `tokens` tokens, as finish32 has them.
  static COTERIE_INLINE void finish(const Panel& panel, const Sums* sums, const Side* side, int64_t tokens,
                                    float (*y)[kLanes]) {
    const Float d = load_float(panel.d), m = load_float(panel.m);
    for (int64_t t = 0; t < tokens; ++t) {
      Float out = fma(mul(d, set_float(side[t].d)), to_float(load_int(sums->lane[t])), load_float(y[t]));
      if constexpr (Format::kMin) out = fma(m, set_float(side[t].scaled_sum), out);
      store_float(y[t], out);
    }
  }
};
