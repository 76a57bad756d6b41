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

inline bool is_grouped(Piece piece) {
  return piece == Piece::group_front || piece == Piece::group_back || piece == Piece::group_qkv;
}

/// Of `rows` rows of a weight that comes in `parts`, with `merged_with` rows of another one in each: how many rows the
/// file's tensor has, where this weight is the one that lists them, else 0.
inline int64_t rows_listed(Piece piece, int64_t rows, int64_t parts, int64_t merged_with) {
  if (piece == Piece::group_back) return 0;
  return is_grouped(piece) ? rows + parts * merged_with : rows * rows_listed(piece);
}

/// Row `row` of such a weight of `rows` rows in the file's tensor; `piece` is a grouped one.
inline int64_t grouped_row(Piece piece, int64_t row, int64_t rows, int64_t parts, int64_t merged_with) {
  const int64_t own = rows / parts, all = own + merged_with;
  if (piece == Piece::group_back) return row / own * all + merged_with + row % own;
  if (piece == Piece::group_front) return row / own * all + row % own;
  const int64_t key = (own - merged_with) / 2;
  for (const int64_t first : {int64_t{0}, key}) {
    if (row < parts * key) return row / key * all + first + row % key;
    row -= parts * key;
  }
  return row / merged_with * all + 2 * key + row % merged_with;
}

inline bool is_of_heads(Piece piece) { return piece == Piece::head_keys || piece == Piece::head_values; }

}  // namespace coterie::families
