#pragma once

#include <cstdint>

#include "checkpoint/tensor_sink.h"
#include "tensor/dtype.h"
#include "threads/pool.h"

namespace coterie::surgery {

/// What a file's values differ in from the weight's.
struct Change {
  float add = 0;           // the file holds value + this (1 + w of a norm)
  bool minus_exp = false;  // … -exp(value) (A of A_log)
  // Rows of each head whose first `turned` rows are pairs (i, i + turned / 2): in the file they stand side by side.
  int64_t head = 0, turned = 0;

  bool none() const { return add == 0 && !minus_exp && head == 0; }
};

/// The tensor in another format, row by row: never more than some megabytes of it are in memory. `pool` must outlive
/// the result. The bits of a row depend on the row alone.
checkpoint::TensorToWrite recoded(checkpoint::TensorToWrite from, tensor::DType to, const Change& change,
                                  threads::Pool& pool);

}  // namespace coterie::surgery
