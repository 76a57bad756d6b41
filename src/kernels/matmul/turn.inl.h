// A panel of rows from the order of files to that of the kernels: MatmulKernels::turn. Decoding a token then neither
// turns rows into lanes nor sums across lanes, which is two thirds of its instructions in 4-bit formats.

void turn(const std::byte* rows, int64_t row_stride, int64_t blocks, int64_t block_bytes, TurnedOrder order,
          std::byte* turned) noexcept {
  for (int64_t b = 0; b < blocks; ++b, rows += block_bytes) {
    for (int64_t i = 0; i < order.count; ++i) {
      const TurnedRun run = order.runs[i];
      const int64_t end = run.at + run.bytes, together = run.bytes < 4 ? run.bytes : 4;
      int64_t at = run.at;
      for (; at + 16 <= end; at += 16, turned += 16 * kLanes) {
        Int words[4];
        load_columns(Rows{rows, row_stride}, at, words);
        COTERIE_UNROLL
        for (int w = 0; w < 4; ++w) __builtin_memcpy(turned + 4 * w * kLanes, &words[w], sizeof(Int));
      }
      for (; at < end; at += together, turned += together * kLanes) {
        for (int64_t r = 0; r < kLanes; ++r)
          __builtin_memcpy(turned + r * together, rows + r * row_stride + at, static_cast<size_t>(together));
      }
    }
  }
}
