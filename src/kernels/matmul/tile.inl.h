// How a tile of P panels by T tokens begins, whatever the format.
#pragma once

/// x[t]: the first block of each token's row; y: zeros.
template <class X, int P, int T>
COTERIE_INLINE void begin_tile(const std::byte* const* rows_x, const X* (&x)[T], Vf (&y)[P][T]) {
  COTERIE_UNROLL
  for (int t = 0; t < T; ++t) {
    x[t] = reinterpret_cast<const X*>(rows_x[t]);
    COTERIE_UNROLL
    for (int p = 0; p < P; ++p) y[p][t] = zero();
  }
}
