// fast matmul on the 32-value formats: int8 activations, exact integers inside a block, f32 between blocks.
#pragma once
#include "kernels/matmul/formats32.inl.h"
#include "kernels/matmul/tile.inl.h"

/// How many groups of four products may be summed before they are widened to 32 bits.
template <class Format>
constexpr int span32() {
  if (Format::kSigned) return 1;
  int span = 1;
  while (2 * span <= span_limit(Format::kMaxCode) && span < 8) span *= 2;
  return span;
}

/// A block of kWidth rows, unpacked.
struct Panel32 {
  alignas(64) uint8_t codes[8][4 * kWidth];
  float d[kWidth], m[kWidth];
};

struct Store32 {
  Panel32& panel;
  template <int u>
  COTERIE_INLINE void unit(const Vi (&columns)[4]) {
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) store_int(panel.codes[4 * u + i], columns[i]);
  }
};

/// Σ code * x before the products are added: what takes the codes' offset off.
template <class Format>
COTERIE_INLINE Vi first_sum(const ActivationBlock32& x) {
  constexpr int kOffset = Format::kOffset;
  if constexpr (kOffset == 0) return zero_int();
  const Vi sum = broadcast4(&x.offset_sum);  // -128 * Σ x
  if constexpr (kOffset == 12) return add_int(shift_right_signed<4>(sum), shift_right_signed<5>(sum));
  return shift_right_signed < kOffset == 8 ? 4 : kOffset == 16 ? 3 : 0 > (sum);
}

template <class Format, int T>
struct Dot32 {
  const ActivationBlock32* const (&x)[T];
  Vi sum[T];
  Vi pending[T];

  template <int u>
  COTERIE_INLINE void unit(const Vi (&columns)[4]) {
    constexpr int kSpan = span32<Format>();
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      const int8_t* q = x[t]->q + 16 * u;
      Vi dots = kSpan == 8 && u == 1 ? pending[t] : zero_int();
      COTERIE_UNROLL
      for (int i = 0; i < 4; ++i) {
        dots = dot4<Format::kSigned>(dots, columns[i], broadcast4(q + 4 * i));
        if ((i + 1) % kSpan == 0) {
          sum[t] = weigh(dots, sum[t]);
          dots = zero_int();
        }
      }
      if constexpr (kSpan == 8) {
        if (u == 0) pending[t] = dots;
        if (u == 1) sum[t] = weigh(dots, sum[t]);
      }
    }
  }
};

template <class Format>
COTERIE_INLINE Vf finish32(Vf d, Vf m, Vi sum, const ActivationBlock32& x, Vf y) {
  y = fma(mul(d, set(x.d)), to_float(sum), y);
  if constexpr (Format::kMin) y = fma(m, set(x.scaled_sum), y);
  return y;
}

template <class Format>
struct Blocks32 {
  static constexpr ActivationForm kForm = ActivationForm::blocks32;
  using X = ActivationBlock32;
  static constexpr int64_t kValues = 32, kBytes = Format::kBytes;
  static constexpr int kFusedTokens = 2, kFewTokens = 2;  // of a fused tile; with more, unpacking pays
  static_assert(covers(Format::kRepacked, Format::kBytes));
  static constexpr RepackedOrder repacked_order() { return order_of(Format::kRepacked); }
  using OfRepacked = Blocks32;  // what multiplies few tokens by repacked rows
  using Panel = Panel32;
  static constexpr int64_t kTilePanels = Format::kSigned ? 1 : kPanelsOfTile;

  template <class Source>
  static void unpack(Source rows, int64_t blocks, Ahead& ahead, Panel* panels) {
    for (int64_t b = 0; b < blocks; ++b, rows.data += step_bytes(rows, kBytes)) {
      fetch(ahead);
      Header32 header;
      Format::header(rows, header);
      store(panels[b].d, header.d), store(panels[b].m, header.m);
      Store32 store{panels[b]};
      Format::codes(rows, store);
    }
  }

  /// A block of a panel times one of each token: y is moved on.
  template <int T, class Source>
  static COTERIE_INLINE void fused_block(Source rows, const ActivationBlock32* const (&x)[T], Ahead& ahead,
                                         Vf (&y)[T]) {
    fetch(ahead);
    Header32 header;
    Format::header(rows, header);
    Dot32<Format, T> dot{x, {}, {}};
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) dot.sum[t] = first_sum<Format>(*x[t]);
    Format::codes(rows, dot);
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) y[t] = finish32<Format>(header.d, header.m, dot.sum[t], *x[t], y[t]);
  }

  /// Straight from the weight's bytes: what decoding is made of.
  template <int T, class Source>
  static COTERIE_INLINE void fused(Source rows, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                   Vf (&y)[T]) {
    const ActivationBlock32* x[T];
    for (int t = 0; t < T; ++t) x[t] = reinterpret_cast<const ActivationBlock32*>(rows_x[t]), y[t] = zero();
    for (int64_t b = 0; b < blocks; ++b, rows.data += step_bytes(rows, kBytes)) {
      fused_block<T>(rows, x, ahead, y);
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
  }

  /// P panels, `blocks` apart, times T tokens.
  template <int P, int T>
  static COTERIE_INLINE void tile(const Panel* panels, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                  Vf (&y)[P][T]) {
    constexpr int kSpan = span32<Format>();
    const ActivationBlock32* x[T];
    begin_tile(rows_x, x, y);
    for (int64_t b = 0; b < blocks; ++b) {
      fetch(ahead);
      const Panel* panel[P];
      Vi sum[P][T];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        panel[p] = panels + p * blocks + b;
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) sum[p][t] = first_sum<Format>(*x[t]);
      }
      COTERIE_UNROLL
      for (int first = 0; first < 8; first += kSpan) {
        Vi dots[P][T];
        COTERIE_UNROLL
        for (int j = first; j < first + kSpan; ++j) {
          Vi codes[P];
          COTERIE_UNROLL
          for (int p = 0; p < P; ++p) codes[p] = load_int(panel[p]->codes[j]);
          COTERIE_UNROLL
          for (int t = 0; t < T; ++t) {
            const Vi four = broadcast4(x[t]->q + 4 * j);
            COTERIE_UNROLL
            for (int p = 0; p < P; ++p)
              dots[p][t] = dot4<Format::kSigned>(j == first ? zero_int() : dots[p][t], codes[p], four);
          }
        }
        COTERIE_UNROLL
        for (int p = 0; p < P; ++p) {
          COTERIE_UNROLL
          for (int t = 0; t < T; ++t) {
            sum[p][t] = weigh(dots[p][t], sum[p][t]);
            if constexpr (Format::kSigned) hold(sum[p][t]);
          }
        }
      }
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        const Vf d = load(panel[p]->d), m = load(panel[p]->m);
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) y[p][t] = finish32<Format>(d, m, sum[p][t], *x[t], y[p][t]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
  }
};
