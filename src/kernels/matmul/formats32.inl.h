// The 32-value formats as the vector kernels read them: kWidth rows at once, one a lane. A format says
//   kBytes        of a block
//   kMaxCode      the largest code, which is unsigned unless kSigned
//   kRepacked       the runs of bytes of a block in the order of repacked rows (MatmulKernels::repack)
//   kMin          whether an m is added to every value; else
//   kOffset       is added to the codes: 8, 12, 16, 128, or nothing
//   header()      d and m;  codes() hands sink.unit<u>(columns) the codes of values [16u, 16u + 16), as in formats256
// Layouts: quant/blocks.h.
#pragma once
#include "kernels/matmul/repacked.inl.h"

struct Header32 {
  Vf d, m;
};

template <int n>
COTERIE_INLINE Vi masked(Vi v, uint32_t mask) {
  return bits_and(shift<n>(v), set_int(mask));
}

/// The f16 in a block's first two bytes; its first byte; the four from the third on.
COTERIE_INLINE Vf first_half(Rows block) {
  Vi c[4];
  load_columns(block, 0, c);
  return half_to_float(c[0]);
}
COTERIE_INLINE Vf first_half(Repacked block) { return load_halves(block, 0); }
COTERIE_INLINE Vi first_byte(Rows block) {
  Vi c[4];
  load_columns(block, 0, c);
  return masked<0>(c[0], 0xff);
}
COTERIE_INLINE Vi first_byte(Repacked block) { return load_bytes_of(block, 0); }
COTERIE_INLINE Vi word_after_half(Rows block) {
  Vi c[4];
  load_columns(block, 0, c);
  return bits_or(shift<-16>(c[0]), shift<16>(c[1]));
}
COTERIE_INLINE Vi word_after_half(Repacked block) { return load_word(block, 2); }

template <int kOffset, class Block, typename Sink>
COTERIE_INLINE void nibbles(Block block, Sink& sink) {
  Vi packed[4], c[4];
  load_columns(block, kOffset, packed);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = masked<0>(packed[i], 0x0f0f0f0f);
  sink.template unit<0>(c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = masked<-4>(packed[i], 0x0f0f0f0f);
  sink.template unit<1>(c);
}

/// Nibbles with a fifth bit: bit i of `high` is that of value i.
template <int kOffset, class Block, typename Sink>
COTERIE_INLINE void nibbles_and_bits(Block block, Vi high, Sink& sink) {
  Vi packed[4], c[4];
  load_columns(block, kOffset, packed);
  // Four bits of a number times this stand in bit 4 of four bytes: the copies shifted by 4, 11, 18 and 25 do not meet.
  const Vi spread = set_int(0x02040810);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Vi bits = bits_and(mul_int(bits_and(shift_by(high, -4 * i), set_int(15)), spread), set_int(0x10101010));
    c[i] = and_or(packed[i], set_int(0x0f0f0f0f), bits);
  }
  sink.template unit<0>(c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Vi bits = bits_and(mul_int(bits_and(shift_by(high, -16 - 4 * i), set_int(15)), spread), set_int(0x10101010));
    c[i] = and_or(shift<-4>(packed[i]), set_int(0x0f0f0f0f), bits);
  }
  sink.template unit<1>(c);
}

/// Nibbles that point into a table of signed values.
template <int kAt, int kAdded, class Block, typename Sink>
COTERIE_INLINE void table_nibbles(Block block, const int8_t* values, Sink& sink) {
  const Vi table = sub_bytes(broadcast16(values), set_int(0x01010101u * ((256 - kAdded) & 255)));
  Vi packed[4], c[4];
  load_columns(block, kAt, packed);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = shuffle_bytes(table, masked<0>(packed[i], 0x0f0f0f0f));
  sink.template unit<0>(c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = shuffle_bytes(table, masked<-4>(packed[i], 0x0f0f0f0f));
  sink.template unit<1>(c);
}

struct Q4_0 {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {2, 16}};
  static constexpr int kBytes = 18, kMaxCode = 15, kOffset = 8;
  static constexpr bool kMin = false, kSigned = false;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    out.d = first_half(block), out.m = zero();
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    nibbles<2>(block, sink);
  }
};

struct Q4_1 {
  static constexpr RepackedRun kRepacked[] = {{0, 20}};
  static constexpr int kBytes = 20, kMaxCode = 15, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    Vi c[4];
    load_columns(block, 0, c);
    out.d = half_to_float(c[0]), out.m = half_to_float(shift<-16>(c[0]));
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    nibbles<4>(block, sink);
  }
};

struct Q5_0 {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {2, 20}};
  static constexpr int kBytes = 22, kMaxCode = 31, kOffset = 16;
  static constexpr bool kMin = false, kSigned = false;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    out.d = first_half(block), out.m = zero();
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    nibbles_and_bits<6>(block, word_after_half(block), sink);
  }
};

struct Q5_1 {
  static constexpr RepackedRun kRepacked[] = {{0, 24}};
  static constexpr int kBytes = 24, kMaxCode = 31, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    Q4_1::header(block, out);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    Vi c[4];
    load_columns(block, 0, c);
    nibbles_and_bits<8>(block, c[1], sink);
  }
};

struct Q8_0 {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {2, 32}};
  static constexpr int kBytes = 34, kMaxCode = 128, kOffset = kSignedCodes ? 0 : 128;
  static constexpr bool kMin = false, kSigned = kSignedCodes;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    out.d = first_half(block), out.m = zero();
  }
  template <int u, class Block, typename Sink>
  static COTERIE_INLINE void half(Block block, Sink& sink) {
    Vi c[4];
    load_columns(block, 2 + 16 * u, c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = sub_bytes(c[i], set_int(kSignedCodes ? 0 : 0x80808080));
    sink.template unit<u>(c);
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    half<0>(block, sink), half<1>(block, sink);
  }
};

struct IQ4NL {
  static constexpr RepackedRun kRepacked[] = {{0, 2}, {2, 16}};
  static constexpr int kBytes = 18, kMaxCode = 127, kOffset = kSignedCodes ? 0 : 128;
  static constexpr bool kMin = false, kSigned = kSignedCodes;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    out.d = first_half(block), out.m = zero();
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    table_nibbles<2, kOffset>(block, kIq4Codes, sink);
  }
};

struct MXFP4 {
  static constexpr RepackedRun kRepacked[] = {{0, 1}, {1, 16}};
  static constexpr int kBytes = 17, kMaxCode = 24, kOffset = 12;  // the values are -12 … 12
  static constexpr bool kMin = false, kSigned = false;
  template <class Block>
  static COTERIE_INLINE void header(Block block, Header32& out) {
    const Vi exponent = first_byte(block);  // value 2^(exponent - 128); 0 and 1 are subnormal
    const Vi normal = shift<23>(sub_int(exponent, set_int(1)));
    const Vi subnormal = shift<21>(add_int(exponent, set_int(1)));  // 0x00200000 << exponent, for 0 and 1
    out.d = as_float(where_less(exponent, set_int(2), subnormal, normal)), out.m = zero();
  }
  template <class Block, typename Sink>
  static COTERIE_INLINE void codes(Block block, Sink& sink) {
    table_nibbles<1, kOffset>(block, kMxfp4Codes, sink);
  }
};
