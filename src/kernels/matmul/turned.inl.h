// A panel in the order of the kernels (MatmulKernels::turn) read in the words of one in the order of the file: what a
// format says of its blocks then holds for both.

/// How far a panel's next block is.
COTERIE_INLINE int64_t step_bytes(Rows, int64_t block_bytes) { return block_bytes; }
COTERIE_INLINE int64_t step_bytes(Turned, int64_t block_bytes) { return block_bytes * kLanes; }

/// Bytes 4c … 4c + 3 after `offset` of each row, as load_columns of rows in the file's order.
COTERIE_INLINE void load_columns(Turned rows, int64_t offset, Int (&out)[4]) {
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) {
    out[i] = load_word(rows, offset + 4 * i);
    hold(out[i]);
  }
}
