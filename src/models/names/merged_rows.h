#pragma once

#include <cstdint>

#include "models/names/name_table.h"

namespace coterie::models {

/// Of a tensor that is merged from two, the first lists it: how many rows of the file one row of the weight stands for,
/// 0 for the second.
inline int64_t rows_listed(Piece piece) {
  if (piece == Piece::whole) return 1;
  return piece == Piece::first_half || piece == Piece::even_rows ? 2 : 0;
}

}  // namespace coterie::models
