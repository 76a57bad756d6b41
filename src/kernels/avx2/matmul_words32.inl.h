// 32-value formats with signed codes: few tokens as Blocks32, many as words (matmul_words.inl.h).

template <class Format>
struct Words32 : Blocks32<Format> {
  static_assert(Format::kSigned && !Format::kMin && Format::kOffset == 0);
  struct Panel {
    alignas(64) int16_t codes[16][2 * kLanes];
    float d[kLanes];
  };
  static constexpr int64_t kTilePanels = kPanelsOfTile;

  static void unpack(Rows rows, int64_t blocks, Ahead& ahead, Panel* panels) {
    for (int64_t b = 0; b < blocks; ++b, rows.data += Format::kBytes) {
      fetch(ahead);
      Header32 header;
      Format::header(rows, header);
      store_float(panels[b].d, header.d);
      StoreWords<32> store{panels[b].codes, nullptr};
      Format::codes(rows, store);
    }
  }

  template <int P, int T>
  static COTERIE_INLINE void tile(const Panel* panels, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                  Float (&y)[P][T]) {
    const ActivationBlock32* x[T];
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      x[t] = reinterpret_cast<const ActivationBlock32*>(rows_x[t]);
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) y[p][t] = zero_float();
    }
    for (int64_t b = 0; b < blocks; ++b) {
      fetch(ahead);
      WordsOfX<T> words;
      const int16_t(*codes[P])[2 * kLanes];
      Int sum[P][T];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) codes[p] = panels[p * blocks + b].codes;
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) {
        words.take(t, x[t]->q);
        COTERIE_UNROLL
        for (int p = 0; p < P; ++p) sum[p][t] = zero_int();
      }
      read_again(&words);
      add_words<P, T>(codes, words, sum);
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        const Float d = load_float(panels[p * blocks + b].d);
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) y[p][t] = finish32<Format>(d, zero_float(), sum[p][t], *x[t], y[p][t]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
  }
};
