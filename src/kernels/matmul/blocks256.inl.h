// fast matmul on the 256-value formats: int8 activations, exact integers inside a block, f32 between blocks.
#pragma once
#include "kernels/matmul/formats256.inl.h"
#include "kernels/matmul/tile.inl.h"

/// Whether what was added to codes is taken off in the sums of 16 bits: they begin with it, so that each of their two
/// halves is a sum of 8 products with codes of -32 … 32 at most, 8 * 32 * 127 = 32512, at every step.
template <class Format>
constexpr bool offset_in_dots() {
  constexpr int kOffset = Format::kOffsetBits < 0 ? 0 : 1 << Format::kOffsetBits;
  return kSumsOf16Bits && kOffset > 0 && Format::kSub == 16 && kOffset <= 32 && Format::kMaxCode - kOffset <= 32;
}

/// What the codes of a format meet: how many groups of four may be summed before they are weighed.
template <class Format>
constexpr int span256() {
  if (offset_in_dots<Format>()) return Format::kSub / 4;
  const int limit = span_limit(Format::kMaxCode), sub = Format::kSub / 4;
  int span = 1;
  while (2 * span <= limit && 2 * span <= sub) span *= 2;
  return span;
}

/// What the dots of a sub-block begin with.
template <class Format>
COTERIE_INLINE Vi start256(const ActivationBlock256& x, int sub) {
  if constexpr (offset_in_dots<Format>()) {
    return shift_right_halves<5 - Format::kOffsetBits>(broadcast4(x.offsets[sub]));
  } else {
    return zero_int();
  }
}

/// A block of kWidth rows, unpacked: what all tokens of a batch then share.
template <class Format>
struct Panel256 {
  static constexpr int kSubs = 256 / Format::kSub;
  static constexpr bool kPairs = Format::kMin || (Format::kOffsetBits >= 0 && !offset_in_dots<Format>());

  alignas(64) uint8_t codes[64][4 * kWidth];
  int32_t scale[kSubs][kWidth];
  int32_t pairs[kPairs ? kSubs / 2 : 1][kWidth];
  float d[kWidth], dmin[kWidth];
};

template <class Format>
struct Store256 {
  Panel256<Format>& panel;
  Ahead& ahead;
  template <int u>
  COTERIE_INLINE void unit(const Vi (&columns)[4]) {
    if constexpr (u % 4 == 0) fetch(ahead, (ahead.lines + 3) / 4);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) store_int(panel.codes[4 * u + i], columns[i]);
  }
};

/// Sums over x of T tokens the products with codes as they come.
template <class Format, int T>
struct Dot256 {
  static constexpr int kSubs = 256 / Format::kSub;
  const Header256<kSubs>& header;
  const ActivationBlock256* const (&x)[T];
  Ahead& ahead;
  Vi sum[T];
  Vi pending[kSubs][T];  // of sub-blocks whose first half has come

  template <int u>
  COTERIE_INLINE void unit(const Vi (&columns)[4]) {
    // A few lines at a time: past about 20 that are under way, a processor waits.
    if constexpr (u % 4 == 0) fetch(ahead, (ahead.lines + 3) / 4);
    constexpr int kSpan = span256<Format>();
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      const int8_t* q = x[t]->q + 16 * u;
      if constexpr (kSpan >= 4) {
        constexpr bool kFirst = Format::kSub == 16 || u % 2 == 0 || kSpan == 4;
        constexpr bool kLast = Format::kSub == 16 || u % 2 == 1 || kSpan == 4;
        constexpr int kThis = 16 * u / Format::kSub;
        Vi dots = kFirst ? start256<Format>(*x[t], kThis) : pending[kThis][t];
        COTERIE_UNROLL
        for (int i = 0; i < 4; ++i) dots = dot4<Format::kSigned>(dots, columns[i], broadcast4(q + 4 * i));
        if constexpr (kLast) {
          sum[t] = weigh(dots, header.scale[kThis], sum[t]);
        } else {
          pending[kThis][t] = dots;
        }
      } else {
        COTERIE_UNROLL
        for (int i = 0; i < 4; i += kSpan) {
          Vi dots = zero_int();
          COTERIE_UNROLL
          for (int j = i; j < i + kSpan; ++j) dots = dot4<Format::kSigned>(dots, columns[j], broadcast4(q + 4 * j));
          sum[t] = weigh(dots, header.scale[16 * u / Format::kSub], sum[t]);
        }
      }
    }
  }
};

template <class Format>
COTERIE_INLINE const int16_t* pair_sums(const ActivationBlock256& x) {
  return Format::kSub == 16 ? x.sum16 : x.sum32;
}

/// The f32 steps of a block: the same, in the same order, wherever the integers come from.
template <class Format>
COTERIE_INLINE Vf finish256(Vf d, Vf dmin, Vi sum, Vi min_sum, float dx, Vf y) {
  const Vf scale = set(dx);
  if constexpr (Format::kOffsetBits >= 0 && !offset_in_dots<Format>())
    sum = sub_int(sum, shift<Format::kOffsetBits>(min_sum));
  y = fma(mul(d, scale), to_float(sum), y);
  if constexpr (Format::kMin) y = negated_fma(mul(dmin, scale), to_float(min_sum), y);
  return y;
}

template <class Format>
struct Blocks256 {
  static constexpr ActivationForm kForm = ActivationForm::blocks256;
  using X = ActivationBlock256;
  static constexpr int64_t kValues = 256, kBytes = Format::kBytes;
  static constexpr int kFusedTokens = 2, kFewTokens = 2;  // of a fused tile; with more, unpacking pays
  static_assert(covers(Format::kRepacked, Format::kBytes));
  static constexpr RepackedOrder repacked_order() { return order_of(Format::kRepacked); }
  using OfRepacked = Blocks256;  // what multiplies few tokens by repacked rows
  using Panel = Panel256<Format>;
  static constexpr int64_t kTilePanels = Format::kSigned ? 1 : kPanelsOfTile;
  static constexpr int kSubs = Panel::kSubs;

  template <class Source>
  static void unpack(Source rows, int64_t blocks, Ahead& ahead, Panel* panels) {
    for (int64_t b = 0; b < blocks; ++b, rows.data += step_bytes(rows, kBytes)) {
      Panel& panel = panels[b];
      Header256<kSubs> header;
      Format::header(rows, header);
      COTERIE_UNROLL
      for (int s = 0; s < kSubs; ++s) store_int(panel.scale[s], header.scale[s]);
      if constexpr (Panel::kPairs) {
        COTERIE_UNROLL
        for (int p = 0; p < kSubs / 2; ++p) store_int(panel.pairs[p], header.pairs[p]);
      }
      store(panel.d, header.d), store(panel.dmin, header.dmin);
      Store256<Format> store{panel, ahead};
      Format::codes(rows, store);
    }
  }

  /// A block of a panel times one of each token: y is moved on.
  template <int T, class Source>
  static COTERIE_INLINE void fused_block(Source rows, const ActivationBlock256* const (&x)[T], Ahead& ahead,
                                         Vf (&y)[T]) {
    Header256<kSubs> header;
    Format::header(rows, header);
    Dot256<Format, T> dot{header, x, ahead, {}, {}};
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) dot.sum[t] = zero_int();
    Format::codes(rows, dot);
    COTERIE_UNROLL
    for (int t = 0; t < T; ++t) {
      Vi min_sum = zero_int();
      if constexpr (Panel::kPairs) {
        COTERIE_UNROLL
        for (int p = 0; p < kSubs / 2; ++p)
          min_sum = dot2(min_sum, header.pairs[p], broadcast4(pair_sums<Format>(*x[t]) + 2 * p));
      }
      y[t] = finish256<Format>(header.d, header.dmin, dot.sum[t], min_sum, x[t]->d, y[t]);
    }
  }

  /// Straight from the weight's bytes: what decoding is made of.
  template <int T, class Source>
  static COTERIE_INLINE void fused(Source rows, int64_t blocks, const std::byte* const* rows_x, Ahead& ahead,
                                   Vf (&y)[T]) {
    const ActivationBlock256* x[T];
    for (int t = 0; t < T; ++t) x[t] = reinterpret_cast<const ActivationBlock256*>(rows_x[t]), y[t] = zero();
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
    constexpr int kSpan = span256<Format>(), kSpans = Format::kSub / 4 / kSpan;
    const ActivationBlock256* x[T];
    begin_tile(rows_x, x, y);
    for (int64_t b = 0; b < blocks; ++b) {
      fetch(ahead);
      const Panel* panel[P];
      Vi sum[P][T];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        panel[p] = panels + p * blocks + b;
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) sum[p][t] = zero_int();
      }
      for (int s = 0; s < kSubs; ++s) {
        for (int i = 0; i < kSpans; ++i) {
          const int first = s * (Format::kSub / 4) + i * kSpan;
          Vi dots[P][T], start[T];
          COTERIE_UNROLL
          for (int t = 0; t < T; ++t) start[t] = start256<Format>(*x[t], s);
          COTERIE_UNROLL
          for (int j = 0; j < kSpan; ++j) {
            Vi codes[P];
            COTERIE_UNROLL
            for (int p = 0; p < P; ++p) codes[p] = load_int(panel[p]->codes[first + j]);
            COTERIE_UNROLL
            for (int t = 0; t < T; ++t) {
              const Vi four = broadcast4(x[t]->q + 4 * (first + j));
              COTERIE_UNROLL
              for (int p = 0; p < P; ++p)
                dots[p][t] = dot4<Format::kSigned>(j == 0 ? start[t] : dots[p][t], codes[p], four);
            }
          }
          COTERIE_UNROLL
          for (int p = 0; p < P; ++p) {
            const Vi scale = load_int(panel[p]->scale[s]);
            COTERIE_UNROLL
            for (int t = 0; t < T; ++t) {
              sum[p][t] = weigh(dots[p][t], scale, sum[p][t]);
              if constexpr (Format::kSigned) hold(sum[p][t]);
            }
          }
        }
      }
      Vi min_sum[P][T];
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) min_sum[p][t] = zero_int();
      }
      if constexpr (Panel::kPairs) {
        COTERIE_UNROLL
        for (int k = 0; k < kSubs / 2; ++k) {
          COTERIE_UNROLL
          for (int t = 0; t < T; ++t) {
            const Vi sums = broadcast4(pair_sums<Format>(*x[t]) + 2 * k);
            COTERIE_UNROLL
            for (int p = 0; p < P; ++p) min_sum[p][t] = dot2(min_sum[p][t], load_int(panel[p]->pairs[k]), sums);
          }
        }
      }
      COTERIE_UNROLL
      for (int p = 0; p < P; ++p) {
        const Vf d = load(panel[p]->d), dmin = load(panel[p]->dmin);
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) y[p][t] = finish256<Format>(d, dmin, sum[p][t], min_sum[p][t], x[t]->d, y[p][t]);
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) ++x[t];
    }
  }
};
