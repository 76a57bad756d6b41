#pragma once

#include <cstdint>

#include "families/names/name_table.h"

namespace coterie::families {

/// How many rows of the file one row of a listed weight stands for. Of a tensor that is merged from two halves, the
/// first lists it whole: 2, and 0 for the second. Of a fused one (q, k and v) each part lists its own rows.
inline int64_t rows_listed(Piece piece) {
  if (piece == Piece::first_half || piece == Piece::even_rows) return 2;
  return piece == Piece::second_half || piece == Piece::odd_rows ? 0 : 1;
}

inline bool is_of_heads(Piece piece) { return piece == Piece::head_keys || piece == Piece::head_values; }

}  // namespace coterie::families
