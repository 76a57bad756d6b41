#pragma once

#include <cstdint>
#include <span>

#include "checkpoint/tensor_sink.h"
#include "tensor/dtype.h"
#include "threads/pool.h"

namespace coterie::surgery {

/// What a file's values differ in from the weight's.
struct Change {
  float add = 0;           // the file holds value + this (1 + w of a norm)
  bool minus_exp = false;  // … -exp(value) (A of A_log)
  bool negate = false;     // … its negative
  // Rows of each head whose first `permuted` rows are pairs (i, i + permuted / 2): in the file they stand side by side.
  int64_t head = 0, permuted = 0;
  bool back = false;  // the rows stand side by side and become pairs (i, i + permuted / 2)
  // Rows from `first` on, or columns, are [outer, inner, unit] and in the file [inner, outer, unit].
  int64_t outer = 0, inner = 0, unit = 0, first = 0;
  bool columns = false;

  bool swaps() const { return outer > 0; }
  bool none() const { return add == 0 && !minus_exp && !negate && head == 0 && !swaps(); }
  /// Which row or column of the source is `i` of the file's.
  int64_t swapped(int64_t i) const {
    if (i < first) return i;
    const int64_t piece = (i - first) / unit;
    return first + (piece % outer * inner + piece / outer) * unit + (i - first) % unit;
  }
};

/// How much squared values count, one weight for each column [items, cols] of a stack of `items` matrices. An item all
/// of whose weights are 0 is rounded as without importance.
struct ColumnWeights {
  std::span<const float> values;
  int64_t items = 1;
};

/// What rounding did to values: sums over them, in f64, in the order of the rows.
struct Loss {
  double squared_error = 0, squares = 0;
  /// The root of their ratio; 0 where there was nothing to round.
  double relative() const;
  void add(const Loss& other) { squared_error += other.squared_error, squares += other.squares; }
};

/// The tensor in another format, row by row: never more than some megabytes of it are in memory. `pool` must outlive
/// the result, and so must `loss`, to which what was lost is added where it is not null. The bits of a row depend on
/// the row and its weights alone.
checkpoint::TensorToWrite recoded(checkpoint::TensorToWrite from, tensor::DType to, const Change& change,
                                  threads::Pool& pool, ColumnWeights weights = {}, Loss* loss = nullptr);

}  // namespace coterie::surgery
