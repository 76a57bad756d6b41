// A panel in the order of the kernels (MatmulKernels::repack) read in the words of one in the order of the file: what a
// format says of its blocks then holds for both.
#pragma once

/// How far a panel's next block is.
COTERIE_INLINE int64_t step_bytes(Rows, int64_t block_bytes) { return block_bytes; }
COTERIE_INLINE int64_t step_bytes(Repacked, int64_t block_bytes) { return block_bytes * kWidth; }

template <int64_t kRuns>
constexpr RepackedOrder order_of(const RepackedRun (&runs)[kRuns]) {
  int64_t bytes = 0;
  for (const RepackedRun run : runs) bytes += run.bytes;
  return {runs, kRuns, bytes};
}

/// Each run is of 1 or 2 bytes or of whole words, and together they are as long as a block.
template <int64_t kRuns>
constexpr bool covers(const RepackedRun (&runs)[kRuns], int block_bytes) {
  for (const RepackedRun run : runs) {
    if (run.bytes > 2 && run.bytes % 4 != 0) return false;
    block_bytes -= run.bytes;
  }
  return block_bytes == 0;
}

/// Where in a block what lies at byte kAt of one in the file begins.
template <class Format, int kAt>
constexpr int place(Rows) {
  return kAt;
}
template <class Format, int kAt>
constexpr int place_repacked() {
  int before = 0;
  for (const RepackedRun run : Format::kRepacked) {
    if (run.at <= kAt && kAt < run.at + run.bytes) return before + kAt - run.at;
    before += run.bytes;
  }
  return -1;
}
template <class Format, int kAt>
constexpr int place(Repacked) {
  static_assert(place_repacked<Format, kAt>() >= 0);
  return place_repacked<Format, kAt>();
}

/// Bytes 4c … 4c + 3 after `offset` of each row, as load_columns of rows in the file's order.
COTERIE_INLINE void load_columns(Repacked rows, int64_t offset, Vi (&out)[4]) {
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) out[i] = load_word(rows, offset + 4 * i);
}
