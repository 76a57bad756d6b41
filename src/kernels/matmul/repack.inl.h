// A panel of rows from the order of files to that of the kernels: MatmulKernels::repack. Decoding a token then neither
// transposes rows into lanes nor sums across lanes, which is two thirds of its instructions in 4-bit formats.
#pragma once

/// kBytes at `at` of each row of a panel, row after row.
template <int64_t kBytes>
COTERIE_INLINE std::byte* repack_bytes(const std::byte* at, int64_t row_stride, std::byte* repacked) {
  COTERIE_UNROLL
  for (int64_t r = 0; r < kWidth; ++r) __builtin_memcpy(repacked + r * kBytes, at + r * row_stride, kBytes);
  return repacked + kWidth * kBytes;
}

void repack(const std::byte* rows, int64_t row_stride, int64_t row_bytes, RepackedOrder order,
            std::byte* repacked) noexcept {
  for (const std::byte* const end_of_row = rows + row_bytes; rows < end_of_row; rows += order.block_bytes) {
    for (int64_t i = 0; i < order.count; ++i) {
      const RepackedRun run = order.runs[i];
      const int64_t end = run.at + run.bytes;
      int64_t at = run.at;
      for (; at + 16 <= end; at += 16, repacked += 16 * kWidth) {
        Vi words[4];
        load_columns(Rows{rows, row_stride}, at, words);
        COTERIE_UNROLL
        for (int w = 0; w < 4; ++w) __builtin_memcpy(repacked + 4 * w * kWidth, &words[w], sizeof(Vi));
      }
      for (; at + 4 <= end; at += 4) repacked = repack_bytes<4>(rows + at, row_stride, repacked);
      if (end - at == 2) repacked = repack_bytes<2>(rows + at, row_stride, repacked);
      if (end - at == 1) repacked = repack_bytes<1>(rows + at, row_stride, repacked);
    }
  }
}
