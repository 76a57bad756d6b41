// Signed codes of 8 bits for many tokens. vpmaddubsw wants one side unsigned, so codes as they are need their signs
// moved to x and their products widened at once: four instructions on two ports for 32 products. As words of 16 bits,
// two vpmaddwd do: their sums are of 32 bits already, and a whole block is added up before anything else happens to it.
// The words, twice as many bytes, are made when a panel is unpacked; those of x, for each block of a tile.
#pragma once
#include "kernels/matmul/repacked.inl.h"
#include "kernels/matmul/tile.inl.h"

/// x of T tokens, 32 values, as words.
template <int T>
struct WordsOfX {
  alignas(64) int16_t words[T][32];
  COTERIE_INLINE void take(int t, const int8_t* q) {
    COTERIE_UNROLL
    for (int half = 0; half < 2; ++half)
      store_int(words[t] + 16 * half,
                _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 16 * half))));
  }
};

/// sum[p][t] += the products of 32 values: `codes` [16][2 * kWidth] of each panel, pairs of values lane by lane.
template <int P, int T>
COTERIE_INLINE void add_words(const int16_t (*const (&codes)[P])[2 * kWidth], const WordsOfX<T>& x, Vi (&sum)[P][T]) {
  COTERIE_UNROLL
  for (int k = 0; k < 16; ++k) {
    Vi pair[P];
    COTERIE_UNROLL
    for (int p = 0; p < P; ++p) pair[p] = load_int(codes[p][k]), hold(pair[p]);
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      const Vi two = broadcast4(x.words[t] + 2 * k);
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        sum[p][t] = dot2(sum[p][t], pair[p], two);
        hold(sum[p][t]);
      }
    }
  }
}

/// Takes a format's codes apart into words; with `scale`, times what their sub-block is weighed with.
template <int kValues, int kSub>
struct StoreWords {
  int16_t (&codes)[kValues / 2][2 * kWidth];
  const Vi* scale;  // of each kSub values, as spread_scale makes them, or null
  template <int u>
  COTERIE_INLINE void unit(const Vi (&columns)[4]) {
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) {
      Vi first = spread_pair<0, true>(columns[i]), second = spread_pair<1, true>(columns[i]);
      if (scale) {
        const Vi by = scale[16 * u / kSub];
        first = _mm256_mullo_epi16(first, by), second = _mm256_mullo_epi16(second, by);
      }
      store_int(codes[8 * u + 2 * i], first), store_int(codes[8 * u + 2 * i + 1], second);
    }
  }
};

/// A format with signed codes and neither mins nor an offset: few tokens as `Few` does, many as words. Where a block
/// has sub-blocks, a word is code * scale, which fits while the scale has 8 bits: then nothing is left to be weighed,
/// and every block is one sum. `X`: a block of x; `Header`: of the format's family.
template <class Format, class Few, class X, class Header>
struct Words : Few {
  static_assert(Format::kSigned && !Format::kMin);
  static constexpr int kWords = static_cast<int>(Few::kValues);
  struct Panel {
    alignas(64) int16_t codes[kWords / 2][2 * kWidth];
    float d[kWidth];
  };
  static constexpr int64_t kTilePanels = kPanelsOfTile;

  template <class Source>
  static void unpack(Source rows, int64_t blocks, Ahead& ahead, Panel* panels) {
    for (int64_t b = 0; b < blocks; ++b, rows.data += step_bytes(rows, Format::kBytes)) {
      fetch(ahead);
      Header header;
      Format::header(rows, header);
      store(panels[b].d, header.d);
      if constexpr (requires { header.scale; }) {
        StoreWords<kWords, Format::kSub> store{panels[b].codes, header.scale};
        Format::codes(rows, store);
      } else {
        StoreWords<kWords, 32> store{panels[b].codes, nullptr};
        Format::codes(rows, store);
      }
    }
  }

  template <int P, int T>
  static COTERIE_INLINE void tile(const Panel* panels, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                  Vf (&y)[P][T]) {
    const X* x[T];
    begin_tile(rows_x, x, y);
    for (int64_t b = 0; b < blocks; ++b) {
      fetch(ahead);
      Vi sum[P][T];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) sum[p][t] = zero_int();
      }
      for (int s = 0; s < kWords / 32; ++s) {
        WordsOfX<T> words;
        const int16_t(*codes[P])[2 * kWidth];
        COTERIE_UNROLL
        for (int p = 0; p < P; ++p) codes[p] = panels[p * blocks + b].codes + 16 * s;
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) words.take(t, x[t]->q + 32 * s);
        read_again(&words);
        add_words<P, T>(codes, words, sum);
      }
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        const Vf d = load(panels[p * blocks + b].d);
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) y[p][t] = fma(mul(d, set(x[t]->d)), to_float(sum[p][t]), y[p][t]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
  }
};
