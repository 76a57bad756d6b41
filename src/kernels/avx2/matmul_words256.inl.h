// A 256-value format with signed codes and no mins: few tokens as `Few` does, many as words (matmul_words.inl.h). A
// word is code * scale, which fits while the scale has 8 bits: then nothing is left to be weighed, and a block is one
// sum.

template <class Format, class Few>
struct Words256 : Few {
  static_assert(Format::kSub == 32 && Format::kSigned && !Format::kMin && Format::kOffsetBits < 0);
  struct Panel {
    alignas(64) int16_t codes[128][2 * kLanes];
    float d[kLanes];
  };
  static constexpr int64_t kTilePanels = kPanelsOfTile;

  static void unpack(Rows rows, int64_t blocks, Ahead& ahead, Panel* panels) {
    for (int64_t b = 0; b < blocks; ++b, rows.data += Format::kBytes) {
      fetch(ahead);
      Header256<8> header;
      Format::header(rows, header);
      store_float(panels[b].d, header.d);
      StoreWords<256> store{panels[b].codes, header.scale};
      Format::codes(rows, store);
    }
  }

  template <int P, int T>
  static COTERIE_INLINE void tile(const Panel* panels, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                  Float (&y)[P][T]) {
    const ActivationBlock256* x[T];
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      x[t] = reinterpret_cast<const ActivationBlock256*>(rows_x[t]);
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) y[p][t] = zero_float();
    }
    for (int64_t b = 0; b < blocks; ++b) {
      fetch(ahead);
      Int sum[P][T];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) sum[p][t] = zero_int();
      }
      for (int s = 0; s < 8; ++s) {
        WordsOfX<T> words;
        const int16_t(*codes[P])[2 * kLanes];
        COTERIE_UNROLL
        for (int p = 0; p < P; ++p) codes[p] = panels[p * blocks + b].codes + 16 * s;
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) words.take(t, x[t]->q + 32 * s);
        read_again(&words);
        add_words<P, T>(codes, words, sum);
      }
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        const Float d = load_float(panels[p * blocks + b].d);
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t)
          y[p][t] = finish256<Format>(d, zero_float(), sum[p][t], zero_int(), x[t]->d, y[p][t]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
  }
};
