// The 256-value formats as the vector kernels read them: kWidth rows at once, one a lane. A format says
//   kBytes      of a block
//   kRepacked     the runs of bytes of a block in the order of repacked rows (MatmulKernels::repack): that in which
//   header()
//               and codes() read them, one stream of bytes
//   kSub        values that share a scale: 16 or 32
//   kMaxCode    the largest code, which is unsigned unless kSigned
//   kMin        whether there are mins, with a dmin; else
//   kOffsetBits the codes have 2^kOffsetBits added, which costs Σ scale * Σ x (offset_in_dots: less); -1: nothing added
//   header()    scales, mins (or scales again) in pairs of sub-blocks, d and dmin
//   codes()     hands sink.unit<u>(columns) the codes of values [16u, 16u + 16): lane r of columns[i] holds the four
//               from 16u + 4i on of row r
// Layouts: quant/blocks.h.
#pragma once
#include "kernels/matmul/repacked.inl.h"

template <int kSubs>
struct Header256 {
  Vi scale[kSubs];      // as spread_scale makes them
  Vi pairs[kSubs / 2];  // mins, or scales where there is an offset and sums do not begin with it
  Vf d, dmin;
};

template <int first, bool kSigned, typename Header>
COTERIE_INLINE void spread_scales(Vi bytes, Header& header) {
  header.scale[first] = spread_scale<0, kSigned>(bytes), header.scale[first + 1] = spread_scale<1, kSigned>(bytes);
  header.scale[first + 2] = spread_scale<2, kSigned>(bytes), header.scale[first + 3] = spread_scale<3, kSigned>(bytes);
}
template <int first, bool kSigned, typename Header>
COTERIE_INLINE void spread_pairs(Vi bytes, Header& header) {
  header.pairs[first / 2] = spread_pair<0, kSigned>(bytes),
                       header.pairs[first / 2 + 1] = spread_pair<1, kSigned>(bytes);
}

template <int n>
COTERIE_INLINE Vi masked(Vi v, uint32_t mask) {
  return bits_and(shift<n>(v), set_int(mask));
}

struct Q2K {
  static constexpr RepackedRun kRepacked[] = {{0, 84}};
  static constexpr int kBytes = 84, kSub = 16, kMaxCode = 3, kOffsetBits = -1;
  static constexpr bool kMin = true, kSigned = false;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<16>& out) {
    Vi c[4];
    load_columns(block, 68, c);
    out.d = half_to_float(c[3]), out.dmin = half_to_float(shift<-16>(c[3]));
    load_columns(block, 0, c);
    spread_scales<0, false>(masked<0>(c[0], 0x0f0f0f0f), out),
        spread_scales<4, false>(masked<0>(c[1], 0x0f0f0f0f), out);
    spread_scales<8, false>(masked<0>(c[2], 0x0f0f0f0f), out),
        spread_scales<12, false>(masked<0>(c[3], 0x0f0f0f0f), out);
    spread_pairs<0, false>(masked<-4>(c[0], 0x0f0f0f0f), out),
        spread_pairs<4, false>(masked<-4>(c[1], 0x0f0f0f0f), out);
    spread_pairs<8, false>(masked<-4>(c[2], 0x0f0f0f0f), out),
        spread_pairs<12, false>(masked<-4>(c[3], 0x0f0f0f0f), out);
  }

  template <int half, int u, int p, typename Sink>
  static COTERIE_INLINE void part(const Vi (&packed)[4], Sink& sink) {
    Vi c[4];
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = masked<-2 * p>(packed[i], 0x03030303);
    sink.template unit<8 * half + 2 * p + u>(c);
  }
  template <int half, int u, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi packed[4];
    load_columns(block, 16 + 32 * half + 16 * u, packed);
    part<half, u, 0>(packed, sink), part<half, u, 1>(packed, sink), part<half, u, 2>(packed, sink),
        part<half, u, 3>(packed, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0, 0>(block, sink), column<0, 1>(block, sink), column<1, 0>(block, sink), column<1, 1>(block, sink);
  }
};

/// The f16 in a block's last two bytes.
template <class Format>
COTERIE_INLINE Vf last_half(Rows block) {
  Vi c[4];
  load_columns(block, Format::kBytes - 16, c);
  return half_to_float(shift<-16>(c[3]));
}
template <class Format>
COTERIE_INLINE Vf last_half(Repacked block) {
  return load_halves(block, place<Format, Format::kBytes - 2>(block));
}

struct Q3K {
  static constexpr RepackedRun kRepacked[] = {{108, 2}, {96, 12}, {0, 16},  {32, 16},
                                              {64, 16}, {16, 16}, {48, 16}, {80, 16}};
  static constexpr int kBytes = 110, kSub = 16, kMaxCode = 7, kOffsetBits = 2;
  static constexpr bool kMin = false, kSigned = false;

  template <int first>
  static COTERIE_INLINE void scales(Vi bytes, Header256<16>& out) {
    const Vi centred = sub_bytes(bytes, set_int(0x20202020));
    spread_scales<first, true>(centred, out), spread_pairs<first, true>(centred, out);
  }
  static COTERIE_INLINE void scale_words(Rows block, Vi (&words)[3]) {
    Vi c[4];
    load_columns(block, 92, c);
    words[0] = c[1], words[1] = c[2], words[2] = c[3];
  }
  static COTERIE_INLINE void scale_words(Repacked block, Vi (&words)[3]) {
    constexpr int kAt = place<Q3K, 96>(Repacked{});
    words[0] = load_word(block, kAt), words[1] = load_word(block, kAt + 4), words[2] = load_word(block, kAt + 8);
  }
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<16>& out) {
    Vi c[3];
    out.d = last_half<Q3K>(block), out.dmin = zero();
    scale_words(block, c);
    scales<0>(and_or(c[0], set_int(0x0f0f0f0f), masked<4>(c[2], 0x30303030)), out);
    scales<4>(and_or(c[1], set_int(0x0f0f0f0f), masked<2>(c[2], 0x30303030)), out);
    scales<8>(and_or(shift<-4>(c[0]), set_int(0x0f0f0f0f), masked<0>(c[2], 0x30303030)), out);
    scales<12>(and_or(shift<-4>(c[1]), set_int(0x0f0f0f0f), masked<-2>(c[2], 0x30303030)), out);
  }

  template <int half, int u, int p, typename Sink>
  static COTERIE_INLINE void part(const Vi (&packed)[4], const Vi (&high)[4], Sink& sink) {
    Vi c[4];
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i)
      c[i] = and_or(shift<-2 * p>(packed[i]), set_int(0x03030303), masked<2 - (4 * half + p)>(high[i], 0x04040404));
    sink.template unit<8 * half + 2 * p + u>(c);
  }
  template <int half, int u, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, const Vi (&high)[4], Sink& sink) {
    Vi packed[4];
    load_columns(block, place<Q3K, 32 + 32 * half + 16 * u>(block), packed);
    part<half, u, 0>(packed, high, sink), part<half, u, 1>(packed, high, sink);
    part<half, u, 2>(packed, high, sink), part<half, u, 3>(packed, high, sink);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi high[4];
    load_columns(block, place<Q3K, 0>(block), high);
    column<0, 0>(block, high, sink), column<1, 0>(block, high, sink);
    load_columns(block, place<Q3K, 16>(block), high);
    column<0, 1>(block, high, sink), column<1, 1>(block, high, sink);
  }
};

/// d, dmin, scales and mins of q4_k and q5_k: the first 16 bytes.
template <class Block>
COTERIE_INLINE void header_k4(Block block, Header256<8>& out) {
  Vi c[4];
  load_columns(block, 0, c);
  out.d = half_to_float(c[0]), out.dmin = half_to_float(shift<-16>(c[0]));
  spread_scales<0, false>(masked<0>(c[1], 0x3f3f3f3f), out);
  spread_pairs<0, false>(masked<0>(c[2], 0x3f3f3f3f), out);
  spread_scales<4, false>(and_or(c[3], set_int(0x0f0f0f0f), masked<-2>(c[1], 0x30303030)), out);
  spread_pairs<4, false>(and_or(shift<-4>(c[3]), set_int(0x0f0f0f0f), masked<-2>(c[2], 0x30303030)), out);
}

struct Q4K {
  static constexpr RepackedRun kRepacked[] = {{0, 144}};
  static constexpr int kBytes = 144, kSub = 32, kMaxCode = 15, kOffsetBits = -1;
  static constexpr bool kMin = true, kSigned = false;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    header_k4(block, out);
  }

  template <int pair, int u, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi packed[4], c[4];
    load_columns(block, 16 + 32 * pair + 16 * u, packed);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = masked<0>(packed[i], 0x0f0f0f0f);
    sink.template unit<4 * pair + u>(c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = masked<-4>(packed[i], 0x0f0f0f0f);
    sink.template unit<4 * pair + 2 + u>(c);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0, 0>(block, sink), column<0, 1>(block, sink), column<1, 0>(block, sink), column<1, 1>(block, sink);
    column<2, 0>(block, sink), column<2, 1>(block, sink), column<3, 0>(block, sink), column<3, 1>(block, sink);
  }
};

struct Q5K {
  static constexpr RepackedRun kRepacked[] = {{0, 176}};
  static constexpr int kBytes = 176, kSub = 32, kMaxCode = 31, kOffsetBits = -1;
  static constexpr bool kMin = true, kSigned = false;

  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    header_k4(block, out);
  }

  template <int pair, int u, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, const Vi (&high)[4], Sink& sink) {
    Vi packed[4], c[4];
    load_columns(block, 48 + 32 * pair + 16 * u, packed);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i)
      c[i] = and_or(packed[i], set_int(0x0f0f0f0f), masked<4 - 2 * pair>(high[i], 0x10101010));
    sink.template unit<4 * pair + u>(c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i)
      c[i] = and_or(shift<-4>(packed[i]), set_int(0x0f0f0f0f), masked<3 - 2 * pair>(high[i], 0x10101010));
    sink.template unit<4 * pair + 2 + u>(c);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi low_half[4], high_half[4];
    load_columns(block, 16, low_half), load_columns(block, 32, high_half);
    column<0, 0>(block, low_half, sink), column<0, 1>(block, high_half, sink);
    column<1, 0>(block, low_half, sink), column<1, 1>(block, high_half, sink);
    column<2, 0>(block, low_half, sink), column<2, 1>(block, high_half, sink);
    column<3, 0>(block, low_half, sink), column<3, 1>(block, high_half, sink);
  }
};

struct Q6K {
  static constexpr RepackedRun kRepacked[] = {{208, 2},  {192, 16}, {0, 16},   {32, 16}, {128, 16},
                                              {16, 16},  {48, 16},  {144, 16}, {64, 16}, {96, 16},
                                              {160, 16}, {80, 16},  {112, 16}, {176, 16}};
  static constexpr int kBytes = 210, kSub = 16, kMaxCode = 63, kOffsetBits = 5;
  static constexpr bool kMin = false, kSigned = false;

  template <int first>
  static COTERIE_INLINE void scales(Vi bytes, Header256<16>& out) {
    spread_scales<first, true>(bytes, out), spread_pairs<first, true>(bytes, out);
  }
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<16>& out) {
    out.d = last_half<Q6K>(block), out.dmin = zero();
    Vi c[4];
    load_columns(block, place<Q6K, 192>(block), c);
    scales<0>(c[0], out), scales<4>(c[1], out), scales<8>(c[2], out), scales<12>(c[3], out);
  }

  template <int half, int u, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Sink& sink) {
    Vi even[4], odd[4], high[4], c[4];
    load_columns(block, place<Q6K, 64 * half + 16 * u>(block), even);
    load_columns(block, place<Q6K, 64 * half + 32 + 16 * u>(block), odd);
    load_columns(block, place<Q6K, 128 + 32 * half + 16 * u>(block), high);
    const Vi low_mask = set_int(0x0f0f0f0f);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = and_or(even[i], low_mask, masked<4>(high[i], 0x30303030));
    sink.template unit<8 * half + u>(c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = and_or(odd[i], low_mask, masked<2>(high[i], 0x30303030));
    sink.template unit<8 * half + 2 + u>(c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = and_or(shift<-4>(even[i]), low_mask, masked<0>(high[i], 0x30303030));
    sink.template unit<8 * half + 4 + u>(c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = and_or(shift<-4>(odd[i]), low_mask, masked<-2>(high[i], 0x30303030));
    sink.template unit<8 * half + 6 + u>(c);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    column<0, 0>(block, sink), column<0, 1>(block, sink), column<1, 0>(block, sink), column<1, 1>(block, sink);
  }
};

struct IQ4XS {
  static constexpr RepackedRun kRepacked[] = {{0, 136}};
  static constexpr int kBytes = 136, kSub = 32, kMaxCode = kSignedCodes ? 127 : 255;
  static constexpr int kOffsetBits = kSignedCodes ? -1 : 7;
  static constexpr bool kMin = false, kSigned = kSignedCodes;

  template <int j>
  static COTERIE_INLINE void scales(Vi even, Vi odd, Header256<8>& out) {
    out.scale[2 * j] = spread_scale<j, true>(even), out.scale[2 * j + 1] = spread_scale<j, true>(odd);
    // The low halves of both as 16-bit numbers; whether scales are 16 or 32 bits wide, those are right.
    out.pairs[j] = and_or(out.scale[2 * j], set_int(0xffff), shift<16>(out.scale[2 * j + 1]));
  }
  /// From the block's first 16 bytes: the scales of sub-blocks 0, 2, 4, 6 and of 1, 3, 5, 7, one a byte.
  static COTERIE_INLINE void scale_bytes(const Vi (&c)[4], Vi& even, Vi& odd) {
    // Four bits a byte: bits 0, 1 belong to the even sub-block, bits 2, 3 to the odd one.
    Vi high = shift<-16>(c[0]);
    high = bits_and(bits_or(high, shift<8>(high)), set_int(0x00ff00ff));
    high = bits_and(bits_or(high, shift<4>(high)), set_int(0x0f0f0f0f));
    const Vi centre = set_int(0x20202020);
    even = sub_bytes(and_or(c[1], set_int(0x0f0f0f0f), masked<4>(high, 0x30303030)), centre);
    odd = sub_bytes(and_or(shift<-4>(c[1]), set_int(0x0f0f0f0f), masked<2>(high, 0x30303030)), centre);
  }
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header256<8>& out) {
    Vi c[4], even, odd;
    load_columns(block, 0, c);
    out.d = half_to_float(c[0]), out.dmin = zero();
    scale_bytes(c, even, odd);
    scales<0>(even, odd, out), scales<1>(even, odd, out), scales<2>(even, odd, out), scales<3>(even, odd, out);
  }

  template <int sub, class Block, typename Sink>
  static COTERIE_INLINE void column(Block block, Vi table, Sink& sink) {
    Vi packed[4], c[4];
    load_columns(block, 8 + 16 * sub, packed);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = shuffle_bytes(table, masked<0>(packed[i], 0x0f0f0f0f));
    sink.template unit<2 * sub>(c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = shuffle_bytes(table, masked<-4>(packed[i], 0x0f0f0f0f));
    sink.template unit<2 * sub + 1>(c);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    const Vi table = sub_bytes(broadcast16(kIq4Codes), set_int(kSignedCodes ? 0 : 0x80808080));
    column<0>(block, table, sink), column<1>(block, table, sink), column<2>(block, table, sink);
    column<3>(block, table, sink), column<4>(block, table, sink), column<5>(block, table, sink);
    column<6>(block, table, sink), column<7>(block, table, sink);
  }
};
