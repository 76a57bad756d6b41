// A panel of rows from the order of files to that of the kernels: MatmulKernels::turn. Decoding a token then neither
// turns rows into lanes nor sums across lanes, which is two thirds of its instructions in 4-bit formats.

void turn(const std::byte* rows, int64_t row_stride, int64_t blocks, int64_t block_bytes, int64_t lead,
          std::byte* turned) noexcept {
  for (int64_t b = 0; b < blocks; ++b, rows += block_bytes, turned += block_bytes * kLanes) {
    // `count` bytes from `at` on of each row, together.
    const auto copy = [&](int64_t at, int64_t count) {
      for (int64_t r = 0; r < kLanes; ++r)
        __builtin_memcpy(turned + at * kLanes + r * count, rows + r * row_stride + at, static_cast<size_t>(count));
    };
    if (lead > 0) copy(0, lead);
    int64_t at = lead;
    for (; at + 16 <= block_bytes; at += 16) {
      Int words[4];
      load_columns(Rows{rows, row_stride}, at, words);
      COTERIE_UNROLL
      for (int i = 0; i < 4; ++i) __builtin_memcpy(turned + (at + 4 * i) * kLanes, &words[i], sizeof(Int));
    }
    for (; at + 4 <= block_bytes; at += 4) copy(at, 4);
    if (at < block_bytes) copy(at, block_bytes - at);
  }
}
