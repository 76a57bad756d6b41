// The 32-value formats as the vector kernels read them: kLanes rows at once, one a lane. A format says
//   kBytes        of a block
//   kMaxCode      the largest code, which is unsigned unless kSigned
//   kMin          whether an m is added to every value; else
//   kOffset       is added to the codes: 8, 12, 16, 128, or nothing
//   header()      d and m;  codes() hands sink.unit<u>(columns) the codes of values [16u, 16u + 16), as in formats256
// Layouts: quant/blocks.h.

struct Header32 {
  Float d, m;
};

template <int n>
COTERIE_INLINE Int masked(Int v, uint32_t mask) {
  return both(shift<n>(v), set_int(mask));
}

/// The f16 in a block's first two bytes.
COTERIE_INLINE Float first_half(Rows block) {
  Int c[4];
  load_columns(block, 0, c);
  return half_to_float(c[0]);
}

template <int kOffset, typename Sink>
COTERIE_INLINE void nibbles(Rows block, Sink& sink) {
  Int packed[4], c[4];
  load_columns(block, kOffset, packed);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = masked<0>(packed[i], 0x0f0f0f0f);
  sink.template unit<0>(c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = masked<-4>(packed[i], 0x0f0f0f0f);
  sink.template unit<1>(c);
}

/// Nibbles with a fifth bit: bit i of `high` is that of value i.
template <int kOffset, typename Sink>
COTERIE_INLINE void nibbles_and_bits(Rows block, Int high, Sink& sink) {
  Int packed[4], c[4];
  load_columns(block, kOffset, packed);
  // Four bits of a number times this stand in bit 4 of four bytes: the copies shifted by 4, 11, 18 and 25 do not meet.
  const Int spread = set_int(0x02040810);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Int bits = both(mul_int(both(shift_by(high, -4 * i), set_int(15)), spread), set_int(0x10101010));
    c[i] = and_or(packed[i], set_int(0x0f0f0f0f), bits);
  }
  sink.template unit<0>(c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Int bits = both(mul_int(both(shift_by(high, -16 - 4 * i), set_int(15)), spread), set_int(0x10101010));
    c[i] = and_or(shift<-4>(packed[i]), set_int(0x0f0f0f0f), bits);
  }
  sink.template unit<1>(c);
}

/// Nibbles that point into a table of signed values.
template <int kAt, int kAdded, typename Sink>
COTERIE_INLINE void table_nibbles(Rows block, const int8_t* values, Sink& sink) {
  const Int table = sub_bytes(broadcast16(values), set_int(0x01010101u * ((256 - kAdded) & 255)));
  Int packed[4], c[4];
  load_columns(block, kAt, packed);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = shuffle_bytes(table, masked<0>(packed[i], 0x0f0f0f0f));
  sink.template unit<0>(c);
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) c[i] = shuffle_bytes(table, masked<-4>(packed[i], 0x0f0f0f0f));
  sink.template unit<1>(c);
}

struct Q4_0 {
  static constexpr int kBytes = 18, kMaxCode = 15, kOffset = 8;
  static constexpr bool kMin = false, kSigned = false;
  static COTERIE_INLINE void header(Rows block, Header32& out) { out.d = first_half(block), out.m = zero_float(); }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    nibbles<2>(block, sink);
  }
};

struct Q4_1 {
  static constexpr int kBytes = 20, kMaxCode = 15, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  static COTERIE_INLINE void header(Rows block, Header32& out) {
    Int c[4];
    load_columns(block, 0, c);
    out.d = half_to_float(c[0]), out.m = half_to_float(shift<-16>(c[0]));
  }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    nibbles<4>(block, sink);
  }
};

struct Q5_0 {
  static constexpr int kBytes = 22, kMaxCode = 31, kOffset = 16;
  static constexpr bool kMin = false, kSigned = false;
  static COTERIE_INLINE void header(Rows block, Header32& out) { out.d = first_half(block), out.m = zero_float(); }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    Int c[4];
    load_columns(block, 0, c);
    nibbles_and_bits<6>(block, either(shift<-16>(c[0]), shift<16>(c[1])), sink);
  }
};

struct Q5_1 {
  static constexpr int kBytes = 24, kMaxCode = 31, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  static COTERIE_INLINE void header(Rows block, Header32& out) { Q4_1::header(block, out); }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    Int c[4];
    load_columns(block, 0, c);
    nibbles_and_bits<8>(block, c[1], sink);
  }
};

struct Q8_0 {
  static constexpr int kBytes = 34, kMaxCode = 128, kOffset = kSignedCodes ? 0 : 128;
  static constexpr bool kMin = false, kSigned = kSignedCodes;
  static COTERIE_INLINE void header(Rows block, Header32& out) { out.d = first_half(block), out.m = zero_float(); }
  template <int u, typename Sink>
  static COTERIE_INLINE void half(Rows block, Sink& sink) {
    Int c[4];
    load_columns(block, 2 + 16 * u, c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) c[i] = sub_bytes(c[i], set_int(kSignedCodes ? 0 : 0x80808080));
    sink.template unit<u>(c);
  }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    half<0>(block, sink), half<1>(block, sink);
  }
};

struct IQ4NL {
  static constexpr int kBytes = 18, kMaxCode = 127, kOffset = kSignedCodes ? 0 : 128;
  static constexpr bool kMin = false, kSigned = kSignedCodes;
  static COTERIE_INLINE void header(Rows block, Header32& out) { out.d = first_half(block), out.m = zero_float(); }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    table_nibbles<2, kOffset>(block, kIq4Codes, sink);
  }
};

struct MXFP4 {
  static constexpr int kBytes = 17, kMaxCode = 24, kOffset = 12;  // the values are -12 … 12
  static constexpr bool kMin = false, kSigned = false;
  static COTERIE_INLINE void header(Rows block, Header32& out) {
    Int c[4];
    load_columns(block, 0, c);
    const Int exponent = masked<0>(c[0], 0xff);  // value 2^(exponent - 128); 0 and 1 are subnormal
    const Int normal = shift<23>(sub_int(exponent, set_int(1)));
    const Int subnormal = shift<21>(add_int(exponent, set_int(1)));  // 0x00200000 << exponent, for 0 and 1
    out.d = as_float(where_less(exponent, set_int(2), subnormal, normal)), out.m = zero_float();
  }
  template <typename Sink>
  static COTERIE_INLINE void codes(Rows block, Sink& sink) {
    table_nibbles<1, kOffset>(block, kMxfp4Codes, sink);
  }
};
