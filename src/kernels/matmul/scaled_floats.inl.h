// The blocks that quantised safetensors are put together to (quant/scaled_blocks.h): each value is decoded to the f32
// that the reference has, to the bit, and then is a float like any other, in both precisions. A class says
//   kValues, kBytes   of a block: a word with the scale (and the zero), then whole words of codes
//   kOfWord           values in a word of codes
//   Head(word)        what all values of a block need
//   value(head, word, i)
#pragma once
#include "kernels/matmul/floats.inl.h"
#include "kernels/matmul/streams.inl.h"

COTERIE_INLINE Vf round_to_bf16(Vf v) {
  const Vi bits = as_int(v), even = bits_and(shift<-16>(bits), set_int(1));
  return as_float(bits_and(add_int(bits, add_int(even, set_int(0x7fff))), set_int(0xffff0000)));
}
template <quant::Rounding kRounding>
COTERIE_INLINE Vf round_product(Vf v) {
  if constexpr (kRounding == quant::Rounding::f16) return round_to_half(v);
  if constexpr (kRounding == quant::Rounding::bf16) return round_to_bf16(v);
  return v;
}

template <quant::Rounding kRounding>
struct ReadFp8 {
  static constexpr int kValues = 64, kBytes = 68, kOfWord = 4;
  struct Head {
    Vf scale;
    explicit COTERIE_INLINE Head(Vi word) : scale(mul(as_float(word), set(256))) {}
  };
  static COTERIE_INLINE Vf value(const Head& head, Vi word, int i) {
    // As f16, which has no trouble with small numbers: 2^-8 of it. Of the lane's low half.
    const Vi code = shift_by(word, -8 * i);
    const Vi half = bits_or(shift<7>(bits_and(code, set_int(0x7f))), shift<8>(bits_and(code, set_int(0x80))));
    return round_product<kRounding>(mul(half_to_float(half), head.scale));
  }
};

template <int kBits, int kValuesOfBlock, quant::Rounding kRounding>
struct ReadInt {
  static constexpr int kValues = kValuesOfBlock, kBytes = 4 + kValues * kBits / 8, kOfWord = 32 / kBits;
  struct Head {
    Vf scale;
    Vi zero;
    explicit COTERIE_INLINE Head(Vi word) : zero(shift_right_signed<16>(word)) {
      if constexpr (kRounding == quant::Rounding::f16)
        scale = half_to_float(word);
      else
        scale = as_float(shift<16>(word));
    }
  };
  static COTERIE_INLINE Vf value(const Head& head, Vi word, int i) {
    const Vi q = bits_and(shift_by(word, -kBits * i), set_int((1u << kBits) - 1));
    return round_product<kRounding>(mul(to_float(sub_int(q, head.zero)), head.scale));
  }
};

template <class Read, typename Sink>
COTERIE_INLINE void read_word(const typename Read::Head& head, Vi bytes, int first, const Sink& sink) {
  COTERIE_UNROLL
  for (int i = 0; i < Read::kOfWord; ++i) sink(first + i, Read::value(head, bytes, i));
}

/// The values of a block of kWidth rows, to sink(i, lanes).
template <class Read, typename Sink>
COTERIE_INLINE void read_scaled(Rows rows, const Sink& sink) {
  static_assert(Read::kBytes % 16 == 4);
  Vi c[4];
  load_columns(rows, 0, c);
  const typename Read::Head head(c[0]);
  constexpr int kOfWord = Read::kOfWord;
  COTERIE_UNROLL
  for (int i = 1; i < 4; ++i) read_word<Read>(head, c[i], (i - 1) * kOfWord, sink);
  int at = 16;
#pragma GCC unroll 1
  for (; at + 16 <= Read::kBytes; at += 16) {
    load_columns(rows, at, c);
    COTERIE_UNROLL
    for (int i = 0; i < 4; ++i) read_word<Read>(head, c[i], (at / 4 - 1 + i) * kOfWord, sink);
  }
  load_columns(rows, Read::kBytes - 16, c);  // what is left: one word
  read_word<Read>(head, c[3], (at / 4 - 1) * kOfWord, sink);
}

/// A chunk has a whole number of blocks, and so has a row.
template <class Read>
COTERIE_INLINE int64_t scaled_bytes(int64_t values) {
  static_assert(kChunk % Read::kValues == 0);
  return values / Read::kValues * Read::kBytes;
}

template <class Read>
struct UnpackScaled {
  const MatmulTask& task;
  COTERIE_INLINE void operator()(int64_t first, int64_t begin, int64_t count, float* panel) const {
    Rows rows = chunk_rows(task, first, scaled_bytes<Read>(begin), scaled_bytes<Read>(count), task.scratch);
    for (int64_t k = 0; k < count; k += Read::kValues, rows.data += Read::kBytes)
      read_scaled<Read>(rows, StoreColumns{panel + k * kWidth});
  }
};

template <class Read, int T>
void run_few_scaled(const MatmulTask& task) {
  for (int64_t first = 0; first < task.rows; first += kWidth) {
    for (int64_t begin = 0; begin < task.cols; begin += kChunk) {
      const int64_t count = smaller(kChunk, task.cols - begin);
      Rows rows = chunk_rows(task, first, scaled_bytes<Read>(begin), scaled_bytes<Read>(count), task.scratch);
      const float* x[T];
      Vf acc[T];
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) {
        x[t] = reinterpret_cast<const float*>(task.x[t]) + begin, acc[t] = zero();
      }
      for (int64_t k = 0; k < count; k += Read::kValues, rows.data += Read::kBytes) {
        read_scaled<Read>(rows, FuseColumns<T>{x, acc});
        COTERIE_UNROLL
        for (int t = 0; t < T; ++t) x[t] += Read::kValues;
      }
      COTERIE_UNROLL
      for (int t = 0; t < T; ++t) add_rows(task, t, first, begin == 0, acc[t]);
    }
  }
}

template <class Read>
void run_scaled(const MatmulTask& task) noexcept {
  if (task.tokens == 1) return run_few_scaled<Read, 1>(task);
  if (task.tokens == 2) return run_few_scaled<Read, 2>(task);
  run_packed_floats(task, reinterpret_cast<float*>(task.scratch + 2 * kFloatCopyBytes), UnpackScaled<Read>{task});
}

template <class Read>
constexpr FormatKernel scaled_format(tensor::DType dtype) {
  return {dtype, {run_scaled<Read>, floats_scratch, ActivationForm::floats}};
}

constexpr FormatKernel kFormats[] = {
    scaled_format<ReadFp8<quant::Rounding::none>>(tensor::DType::fp8_64),
    scaled_format<ReadFp8<quant::Rounding::bf16>>(tensor::DType::fp8_64_bf16),
    scaled_format<ReadInt<4, 64, quant::Rounding::f16>>(tensor::DType::int4_64_f16),
    scaled_format<ReadInt<4, 32, quant::Rounding::f16>>(tensor::DType::int4_32_f16),
    scaled_format<ReadInt<4, 64, quant::Rounding::bf16>>(tensor::DType::int4_64_bf16),
    scaled_format<ReadInt<4, 32, quant::Rounding::bf16>>(tensor::DType::int4_32_bf16),
    scaled_format<ReadInt<8, 64, quant::Rounding::f16>>(tensor::DType::int8_64_f16),
    scaled_format<ReadInt<8, 32, quant::Rounding::f16>>(tensor::DType::int8_32_f16),
    scaled_format<ReadInt<8, 64, quant::Rounding::bf16>>(tensor::DType::int8_64_bf16),
    scaled_format<ReadInt<8, 32, quant::Rounding::bf16>>(tensor::DType::int8_32_bf16),
};
