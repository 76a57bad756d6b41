// The formats whose codes point into a codebook, and the ternary ones, in the terms of formats256.inl.h. A look-up
// gathers four values of each row: codes like any other format's from there on. Layouts: quant/blocks.h.
#pragma once
#include "kernels/matmul/formats256.inl.h"

/// Words of 4 bytes from byte kAt of a block on, up to four; they lie in its last 16 bytes where there are not 16 more.
template <class Format, int kAt, int kCount>
COTERIE_INLINE void words(Rows block, Vi (&out)[kCount]) {
  constexpr int kFrom = kAt + 16 <= Format::kBytes ? kAt : Format::kBytes - 16, kSkip = (kAt - kFrom) / 4;
  static_assert((kAt - kFrom) % 4 == 0 && kSkip + kCount <= 4);
  Vi c[4];
  load_columns(block, kFrom, c);
  COTERIE_UNROLL
  for (int i = 0; i < kCount; ++i) out[i] = c[kSkip + i];
}
template <class Format, int kAt, int kCount>
COTERIE_INLINE void words(Repacked block, Vi (&out)[kCount]) {
  out[0] = load_word(block, place<Format, kAt>(block));
  if constexpr (kCount > 1) out[1] = load_word(block, place<Format, kAt + 4>(block));
  if constexpr (kCount > 2) out[2] = load_word(block, place<Format, kAt + 8>(block));
  if constexpr (kCount > 3) out[3] = load_word(block, place<Format, kAt + 12>(block));
}

/// The f16 in a block's first two bytes.
template <class Format>
COTERIE_INLINE Vf first_half(Rows block) {
  Vi c[4];
  load_columns(block, 0, c);
  return half_to_float(c[0]);
}
template <class Format>
COTERIE_INLINE Vf first_half(Repacked block) {
  return load_halves(block, place<Format, 0>(block));
}

/// Scales of four sub-blocks, one a byte, from number `first` on: 2 s + 1.
template <int first, typename Header>
COTERIE_INLINE void odd_scales(Vi bytes, Header& out) {
  bytes = bits_or(shift<1>(bytes), set_int(0x01010101));
  spread_scales<first, false>(bytes, out), spread_pairs<first, false>(bytes, out);
}
/// The four nibbles of a lane's low half, one a byte.
COTERIE_INLINE Vi nibbles_of_half(Vi v) {
  v = bits_and(v, set_int(0xffff));
  v = bits_and(bits_or(v, shift<8>(v)), set_int(0x00ff00ff));
  return bits_and(bits_or(v, shift<4>(v)), set_int(0x0f0f0f0f));
}
template <int first, typename Header>
COTERIE_INLINE void nibble_scales(Vi word, Header& out) {
  odd_scales<first>(nibbles_of_half(word), out), odd_scales<first + 4>(nibbles_of_half(shift<-16>(word)), out);
}
/// Those in the top four bits of four words.
template <int first, typename Header>
COTERIE_INLINE void top_scales(const Vi (&w)[4], Header& out) {
  const Vi low = bits_or(shift<-28>(w[0]), masked<-20>(w[1], 0x00000f00));
  odd_scales<first>(bits_or(low, bits_or(masked<-12>(w[2], 0x000f0000), masked<-4>(w[3], 0x0f000000))), out);
}

/// Seven bits a byte: the eighth is set where the number of ones is odd.
COTERIE_INLINE Vi complete_signs(Vi seven) {
  const Vi odd = broadcast16(kOddCounts), nibble = set_int(0x0f0f0f0f);
  const Vi low = shuffle_bytes(odd, bits_and(seven, nibble)), high = shuffle_bytes(odd, masked<-4>(seven, 0x0f0f0f0f));
  return bits_or(seven, sub_bytes(low, high));  // of 0x80 and 0: their exclusive or
}
/// The four times seven signs of a word of iq2_xxs and iq3_xxs, eight a byte.
COTERIE_INLINE Vi signs_of_word(Vi w) {
  const Vi low = bits_or(masked<0>(w, 0x7f), masked<1>(w, 0x7f00));
  return complete_signs(bits_or(low, bits_or(masked<2>(w, 0x7f0000), masked<3>(w, 0x7f000000))));
}
/// Byte k of each lane four times.
template <int k>
COTERIE_INLINE Vi repeat_byte(Vi v) {
  return shuffle_bytes(v, sub_bytes(broadcast16(kFirstBytes), set_int((256u - k) % 256u * 0x01010101u)));
}

/// What is added to codes that AVX2 takes signed: of up to 62.
inline constexpr int kGridOffset = kSignedCodes ? 0 : 64;

/// Entry `index` of a grid of eight values, and its signs (of all eight in each byte): columns 2j and 2j + 1 of a unit.
template <int j, int kOffset>
COTERIE_INLINE void entry_of_eight(const uint8_t* grid, Vi index, Vi signs, Vi (&columns)[4]) {
  columns[2 * j] = negate_where<kOffset>(gather4<8>(grid, index), signs, set_int(0x08040201));
  columns[2 * j + 1] = negate_where<kOffset>(gather4<8>(grid + 4, index), signs, set_int(0x80402010));
}
template <int i, int kOffset>
COTERIE_INLINE void entry_of_four(const uint8_t* grid, Vi index, Vi signs, Vi (&columns)[4]) {
  const Vi bits = set_int(i % 2 == 0 ? 0x08040201 : 0x80402010);
  columns[i] = negate_where<kOffset>(gather4<4>(grid, index), signs, bits);
}

struct IQ2XXS {
  // The scales first: all of them are needed before the codes.
  static constexpr RepackedRun kRepacked[] = {{0, 2},  {6, 4},  {14, 4}, {22, 4}, {30, 4}, {38, 4},
                                              {46, 4}, {54, 4}, {62, 4}, {2, 4},  {10, 4}, {18, 4},
                                              {26, 4}, {34, 4}, {42, 4}, {50, 4}, {58, 4}};
  static constexpr int kBytes = 66, kSub = 32, kMaxCode = kSignedCodes ? 43 : 64 + 43;
  static constexpr int kOffsetBits = kSignedCodes ? -1 : 6;
  static constexpr bool kMin = false, kSigned = kSignedCodes;

  template <int pair>
  static COTERIE_INLINE void odd_words(Rows block, Vi& first, Vi& second) {
    Vi w[4];
    words<IQ2XXS, 2 + 16 * pair>(block, w);
    first = w[1], second = w[3];
  }
  template <int pair>
  static COTERIE_INLINE void odd_words(Repacked block, Vi& first, Vi& second) {
    first = load_word(block, place<IQ2XXS, 6 + 16 * pair>(block));
    second = load_word(block, place<IQ2XXS, 14 + 16 * pair>(block));
  }
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    out.d = mul(first_half<IQ2XXS>(block), set(0.125f)), out.dmin = zero();
    Vi w[4];
    odd_words<0>(block, w[0], w[1]), odd_words<1>(block, w[2], w[3]);
    top_scales<0>(w, out);
    odd_words<2>(block, w[0], w[1]), odd_words<3>(block, w[2], w[3]);
    top_scales<4>(w, out);
  }

  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi indices, Vi signs, Sink& sink) {
    constexpr int kFirst = u % 2 * 2;
    const uint8_t* const grid = kIq2xxsGrid<kGridOffset>;
    Vi c[4];
    entry_of_eight<0, kGridOffset>(grid, masked<-8 * kFirst>(indices, 255), repeat_byte<kFirst>(signs), c);
    entry_of_eight<1, kGridOffset>(grid, masked<-8 * kFirst - 8>(indices, 255), repeat_byte<kFirst + 1>(signs), c);
    sink.template unit<u>(c);
  }
  template <int pair, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi w[4];
    words<IQ2XXS, 2 + 16 * pair>(block, w);
    const Vi first = signs_of_word(w[1]);
    unit<4 * pair>(w[0], first, sink), unit<4 * pair + 1>(w[0], first, sink);
    const Vi second = signs_of_word(w[3]);
    unit<4 * pair + 2>(w[2], second, sink), unit<4 * pair + 3>(w[2], second, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0>(block, sink), column<1>(block, sink), column<2>(block, sink), column<3>(block, sink);
  }
};

struct IQ2XS {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {66, 8}, {2, 64}};
  static constexpr int kBytes = 74, kSub = 16, kMaxCode = kSignedCodes ? 43 : 64 + 43;
  static constexpr int kOffsetBits = kSignedCodes ? -1 : 6;
  static constexpr bool kMin = false, kSigned = kSignedCodes;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<16>& out) {
    out.d = mul(first_half<IQ2XS>(block), set(0.125f)), out.dmin = zero();
    Vi w[2];
    words<IQ2XS, 66>(block, w);
    nibble_scales<0>(w[0], out), nibble_scales<8>(w[1], out);
  }
  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi w, Sink& sink) {
    const uint8_t* const grid = kIq2xsGrid<kGridOffset>;
    const Vi signs = complete_signs(masked<-9>(w, 0x007f007f));
    Vi c[4];
    entry_of_eight<0, kGridOffset>(grid, masked<0>(w, 511), repeat_byte<0>(signs), c);
    entry_of_eight<1, kGridOffset>(grid, masked<-16>(w, 511), repeat_byte<2>(signs), c);
    sink.template unit<u>(c);
  }
  template <int quarter, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi w[4];
    words<IQ2XS, 2 + 16 * quarter>(block, w);
    unit<4 * quarter>(w[0], sink), unit<4 * quarter + 1>(w[1], sink);
    unit<4 * quarter + 2>(w[2], sink), unit<4 * quarter + 3>(w[3], sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0>(block, sink), column<1>(block, sink), column<2>(block, sink), column<3>(block, sink);
  }
};

struct IQ2S {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {74, 8}, {66, 8}, {2, 16}, {34, 16}, {18, 16}, {50, 16}};
  static constexpr int kBytes = 82, kSub = 16, kMaxCode = kSignedCodes ? 43 : 64 + 43;
  static constexpr int kOffsetBits = kSignedCodes ? -1 : 6;
  static constexpr bool kMin = false, kSigned = kSignedCodes;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<16>& out) {
    out.d = mul(first_half<IQ2S>(block), set(0.125f)), out.dmin = zero();
    Vi w[2];
    words<IQ2S, 74>(block, w);
    nibble_scales<0>(w[0], out), nibble_scales<8>(w[1], out);
  }
  template <int sub, int e>
  static COTERIE_INLINE Vi index(Vi low, Vi high) {
    return bits_or(masked<-8 * e>(low, 255), masked<8 - 8 * (sub % 4) - 2 * e>(high, 0x300));
  }
  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi low, Vi high, Vi signs, Sink& sink) {
    constexpr int kFirst = u % 2 * 2;
    const uint8_t* const grid = kIq2sGrid<kGridOffset>;
    Vi c[4];
    entry_of_eight<0, kGridOffset>(grid, index<u / 2, kFirst>(low, high), repeat_byte<kFirst>(signs), c);
    entry_of_eight<1, kGridOffset>(grid, index<u / 2, kFirst + 1>(low, high), repeat_byte<kFirst + 1>(signs), c);
    sink.template unit<u>(c);
  }
  template <int half, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Vi high, Sink& sink) {
    Vi low[4], signs[4];
    words<IQ2S, 2 + 16 * half>(block, low), words<IQ2S, 34 + 16 * half>(block, signs);
    unit<8 * half>(low[0], high, signs[0], sink), unit<8 * half + 1>(low[0], high, signs[0], sink);
    unit<8 * half + 2>(low[1], high, signs[1], sink), unit<8 * half + 3>(low[1], high, signs[1], sink);
    unit<8 * half + 4>(low[2], high, signs[2], sink), unit<8 * half + 5>(low[2], high, signs[2], sink);
    unit<8 * half + 6>(low[3], high, signs[3], sink), unit<8 * half + 7>(low[3], high, signs[3], sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi high[2];
    words<IQ2S, 66>(block, high);
    column<0>(block, high[0], sink), column<1>(block, high[1], sink);
  }
};

struct IQ3XXS {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {66, 32}, {2, 64}};
  static constexpr int kBytes = 98, kSub = 32, kMaxCode = kSignedCodes ? 62 : 64 + 62;
  static constexpr int kOffsetBits = kSignedCodes ? -1 : 6;
  static constexpr bool kMin = false, kSigned = kSignedCodes;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    out.d = mul(first_half<IQ3XXS>(block), set(0.25f)), out.dmin = zero();
    Vi w[4];
    words<IQ3XXS, 66>(block, w);
    top_scales<0>(w, out);
    words<IQ3XXS, 82>(block, w);
    top_scales<4>(w, out);
  }
  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi w, Vi signs, Sink& sink) {
    const uint8_t* const grid = kIq3xxsGrid<kGridOffset>;
    const Vi first = repeat_byte<u % 2 * 2>(signs), second = repeat_byte<u % 2 * 2 + 1>(signs);
    Vi c[4];
    entry_of_four<0, kGridOffset>(grid, masked<0>(w, 255), first, c);
    entry_of_four<1, kGridOffset>(grid, masked<-8>(w, 255), first, c);
    entry_of_four<2, kGridOffset>(grid, masked<-16>(w, 255), second, c);
    entry_of_four<3, kGridOffset>(grid, shift<-24>(w), second, c);
    sink.template unit<u>(c);
  }
  template <int pair, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Vi first, Vi second, Sink& sink) {
    Vi w[4];
    words<IQ3XXS, 2 + 16 * pair>(block, w);
    first = signs_of_word(first);
    unit<4 * pair>(w[0], first, sink), unit<4 * pair + 1>(w[1], first, sink);
    second = signs_of_word(second);
    unit<4 * pair + 2>(w[2], second, sink), unit<4 * pair + 3>(w[3], second, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi signs[4];
    words<IQ3XXS, 66>(block, signs);
    column<0>(block, signs[0], signs[1], sink), column<1>(block, signs[2], signs[3], sink);
    words<IQ3XXS, 82>(block, signs);
    column<2>(block, signs[0], signs[1], sink), column<3>(block, signs[2], signs[3], sink);
  }
};

struct IQ3S {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {106, 4}, {66, 8}, {74, 16}, {2, 32}, {90, 16}, {34, 32}};
  static constexpr int kBytes = 110, kSub = 32, kMaxCode = 16 + 15, kOffsetBits = 4;
  static constexpr bool kMin = false, kSigned = false;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    out.d = first_half<IQ3S>(block), out.dmin = zero();
    Vi w[1];
    words<IQ3S, 106>(block, w);
    nibble_scales<0>(w[0], out);
  }
  template <int u, int i>
  static COTERIE_INLINE Vi index(Vi w, Vi high) {
    return bits_or(masked<-8 * i>(w, 255), masked<8 - 8 * (u / 2 % 4) - 4 * (u % 2) - i>(high, 256));
  }
  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi w, Vi high, Vi signs, Sink& sink) {
    const uint8_t* const grid = kIq3sGrid<16>;
    const Vi first = repeat_byte<u % 2 * 2>(signs), second = repeat_byte<u % 2 * 2 + 1>(signs);
    Vi c[4];
    entry_of_four<0, 16>(grid, index<u, 0>(w, high), first, c),
        entry_of_four<1, 16>(grid, index<u, 1>(w, high), first, c);
    entry_of_four<2, 16>(grid, index<u, 2>(w, high), second, c);
    entry_of_four<3, 16>(grid, index<u, 3>(w, high), second, c);
    sink.template unit<u>(c);
  }
  template <int half, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Vi high, Sink& sink) {
    Vi signs[4], w[4];
    words<IQ3S, 74 + 16 * half>(block, signs), words<IQ3S, 2 + 32 * half>(block, w);
    unit<8 * half>(w[0], high, signs[0], sink), unit<8 * half + 1>(w[1], high, signs[0], sink);
    unit<8 * half + 2>(w[2], high, signs[1], sink), unit<8 * half + 3>(w[3], high, signs[1], sink);
    words<IQ3S, 18 + 32 * half>(block, w);
    unit<8 * half + 4>(w[0], high, signs[2], sink), unit<8 * half + 5>(w[1], high, signs[2], sink);
    unit<8 * half + 6>(w[2], high, signs[3], sink), unit<8 * half + 7>(w[3], high, signs[3], sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi high[2];
    words<IQ3S, 66>(block, high);
    column<0>(block, high[0], sink), column<1>(block, high[1], sink);
  }
};

/// Entry `index` of iq1's grid with its delta, -1 where bit kBit of `word` is set, else 1; 16 is added.
template <int j, int kBit>
COTERIE_INLINE void entry_of_iq1(Vi index, Vi word, Vi (&columns)[4]) {
  const Vi lower = bits_and(shift_right_signed<31>(shift<31 - kBit>(word)), set_int(0x02020202));
  const uint8_t* const grid = kIq1Grid<17>;
  columns[2 * j] = sub_bytes(gather4<8>(grid, index), lower);
  columns[2 * j + 1] = sub_bytes(gather4<8>(grid + 4, index), lower);
}
/// kBits bits of a word from number kFrom on, as bits 8, 9, 10.
template <int kFrom>
COTERIE_INLINE Vi upper_bits(Vi word) {
  return masked<8 - kFrom>(word, 0x700);
}

struct IQ1S {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {34, 16}, {2, 32}};
  static constexpr int kBytes = 50, kSub = 32, kMaxCode = 16 + 9, kOffsetBits = 4;
  static constexpr bool kMin = false, kSigned = false;

  template <int first>
  static COTERIE_INLINE void scales(Vi a, Vi b, Header256<8>& out) {
    const Vi low = bits_or(masked<-12>(a, 7), masked<-20>(a, 0x700));
    odd_scales<first>(bits_or(low, bits_or(masked<4>(b, 0x70000), masked<-4>(b, 0x7000000))), out);
  }
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    out.d = mul(first_half<IQ1S>(block), set(0.125f)), out.dmin = zero();
    Vi w[4];
    words<IQ1S, 34>(block, w);
    scales<0>(w[0], w[1], out), scales<4>(w[2], w[3], out);
  }
  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi low, Vi head, Sink& sink) {
    constexpr int kFirst = u % 2 * 2, kHead = 16 * (u / 2 % 2);
    Vi c[4];
    entry_of_iq1<0, kHead + 15>(bits_or(masked<-8 * kFirst>(low, 255), upper_bits<kHead + 3 * kFirst>(head)), head, c);
    entry_of_iq1<1, kHead + 15>(bits_or(masked<-8 * kFirst - 8>(low, 255), upper_bits<kHead + 3 * kFirst + 3>(head)),
                                head, c);
    sink.template unit<u>(c);
  }
  template <int half, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Vi first, Vi second, Sink& sink) {
    Vi low[4];
    words<IQ1S, 2 + 16 * half>(block, low);
    unit<8 * half>(low[0], first, sink), unit<8 * half + 1>(low[0], first, sink);
    unit<8 * half + 2>(low[1], first, sink), unit<8 * half + 3>(low[1], first, sink);
    unit<8 * half + 4>(low[2], second, sink), unit<8 * half + 5>(low[2], second, sink);
    unit<8 * half + 6>(low[3], second, sink), unit<8 * half + 7>(low[3], second, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi heads[4];
    words<IQ1S, 34>(block, heads);
    column<0>(block, heads[0], heads[1], sink), column<1>(block, heads[2], heads[3], sink);
  }
};

struct IQ1M {
  static constexpr RepackedRun kRepacked[] = {{48, 8}, {32, 16}, {0, 32}};
  static constexpr int kBytes = 56, kSub = 16, kMaxCode = 16 + 9, kOffsetBits = 4;
  static constexpr bool kMin = false, kSigned = false;

  template <int first>
  static COTERIE_INLINE void scales(Vi w, Header256<16>& out) {
    const Vi low = bits_or(masked<0>(w, 7), masked<5>(w, 0x700));
    odd_scales<first>(bits_or(low, bits_or(masked<10>(w, 0x70000), masked<15>(w, 0x7000000))), out);
  }
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<16>& out) {
    Vi w[2];
    words<IQ1M, 48>(block, w);
    const Vi low = bits_or(masked<-12>(w[0], 15), masked<-24>(w[0], 0xf0));
    const Vi half = bits_or(low, bits_or(masked<-4>(w[1], 0xf00), masked<-16>(w[1], 0xf000)));
    out.d = mul(half_to_float(half), set(0.125f)), out.dmin = zero();
    scales<0>(w[0], out), scales<4>(shift<-16>(w[0]), out), scales<8>(w[1], out), scales<12>(shift<-16>(w[1]), out);
  }
  template <int u, typename Sink>
  static COTERIE_INLINE void unit(Vi low, Vi high, Sink& sink) {
    constexpr int kFirst = u % 2 * 2, kHigh = 8 * (u % 4);
    Vi c[4];
    entry_of_iq1<0, kHigh + 3>(bits_or(masked<-8 * kFirst>(low, 255), upper_bits<kHigh>(high)), high, c);
    entry_of_iq1<1, kHigh + 7>(bits_or(masked<-8 * kFirst - 8>(low, 255), upper_bits<kHigh + 4>(high)), high, c);
    sink.template unit<u>(c);
  }
  template <int half, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Vi first, Vi second, Sink& sink) {
    Vi low[4];
    words<IQ1M, 16 * half>(block, low);
    unit<8 * half>(low[0], first, sink), unit<8 * half + 1>(low[0], first, sink);
    unit<8 * half + 2>(low[1], first, sink), unit<8 * half + 3>(low[1], first, sink);
    unit<8 * half + 4>(low[2], second, sink), unit<8 * half + 5>(low[2], second, sink);
    unit<8 * half + 6>(low[3], second, sink), unit<8 * half + 7>(low[3], second, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi high[4];
    words<IQ1M, 32>(block, high);
    column<0>(block, high[0], high[1], sink), column<1>(block, high[2], high[3], sink);
  }
};

/// One scale for the whole block: every sub-block has 1.
COTERIE_INLINE void scales_of_one(Header256<8>& out) {
  const Vi ones = set_int(0x01010101);
  spread_scales<0, false>(ones, out), spread_scales<4, false>(ones, out);
  spread_pairs<0, false>(ones, out), spread_pairs<4, false>(ones, out);
}

struct TQ1_0 {
  static constexpr RepackedRun kRepacked[] = {{52, 2}, {0, 52}};
  static constexpr int kBytes = 54, kSub = 32, kMaxCode = 2, kOffsetBits = 0;
  static constexpr bool kMin = false, kSigned = false;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    out.d = last_half<TQ1_0>(block), out.dmin = zero();
    scales_of_one(out);
  }

  /// What is left of bytes 0, 2 and 1, 3 of a lane, in 256ths.
  struct Rest {
    Vi even, odd;
  };
  static COTERIE_INLINE Rest rest_of(Vi bytes) { return {masked<0>(bytes, 0x00ff00ff), masked<-8>(bytes, 0x00ff00ff)}; }
  static COTERIE_INLINE Vi next_digit(Rest& rest) {
    const Vi even = add_int(rest.even, shift<1>(rest.even)), odd = add_int(rest.odd, shift<1>(rest.odd));
    rest = {bits_and(even, set_int(0x00ff00ff)), bits_and(odd, set_int(0x00ff00ff))};
    return bits_or(masked<-8>(even, 0x00ff00ff), bits_and(odd, set_int(0xff00ff00)));
  }
  template <int u, int step, int n, typename Sink>
  static COTERIE_INLINE void digits(Rest (&rest)[4], Sink& sink) {
    Vi c[4];
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = next_digit(rest[i]);
    sink.template unit<u>(c);
    if constexpr (n > 1) digits<u + step, step, n - 1>(rest, sink);
  }
  template <int part, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi w[4];
    words<TQ1_0, 16 * part>(block, w);
    Rest rest[4] = {rest_of(w[0]), rest_of(w[1]), rest_of(w[2]), rest_of(w[3])};
    if constexpr (part < 2)
      digits<part, 2, 5>(rest, sink);
    else
      digits<10, 1, 5>(rest, sink);
  }
  static COTERIE_INLINE Vi last_codes(Rows block) {
    Vi c[4];
    load_columns(block, kBytes - 16, c);  // from two bytes before a word on
    return bits_or(shift<-16>(c[2]), shift<16>(c[3]));
  }
  static COTERIE_INLINE Vi last_codes(Repacked block) { return load_word(block, place<TQ1_0, 48>(block)); }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0>(block, sink), column<1>(block, sink), column<2>(block, sink);
    Rest rest = rest_of(last_codes(block));
    Vi c[4];
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = next_digit(rest);
    sink.template unit<15>(c);
  }
};

struct TQ2_0 {
  static constexpr RepackedRun kRepacked[] = {{64, 2}, {0, 64}};
  static constexpr int kBytes = 66, kSub = 32, kMaxCode = 3, kOffsetBits = 0;
  static constexpr bool kMin = false, kSigned = false;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    out.d = last_half<TQ2_0>(block), out.dmin = zero();
    scales_of_one(out);
  }
  template <int half, int u, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi packed[4];
    words<TQ2_0, 32 * half + 16 * u>(block, packed);
    Q2K::part<half, u, 0>(packed, sink), Q2K::part<half, u, 1>(packed, sink);
    Q2K::part<half, u, 2>(packed, sink), Q2K::part<half, u, 3>(packed, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0, 0>(block, sink), column<0, 1>(block, sink), column<1, 0>(block, sink), column<1, 1>(block, sink);
  }
};
