#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/dtype.h"

namespace coterie::tensor {

using Shape = std::vector<int64_t>;

/// "[8, 32, 96]"
std::string to_string(const Shape& shape);
int64_t element_count(const Shape& shape);

/// Activations: rows of f32, row-major. Not owning. `stride` is in floats and at least `cols`.
template <typename Float>
struct MatrixOf {
  Float* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  MatrixOf() = default;
  MatrixOf(Float* data_, int64_t rows_, int64_t cols_) : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
  MatrixOf(Float* data_, int64_t rows_, int64_t cols_, int64_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}
  operator MatrixOf<const Float>() const { return {data, rows, cols, stride}; }  // NOLINT: as with pointers

  Float* row(int64_t r) const { return data + r * stride; }
  MatrixOf row_range(int64_t begin, int64_t end) const { return {row(begin), end - begin, cols, stride}; }
  MatrixOf col_range(int64_t begin, int64_t end) const { return {data + begin, rows, end - begin, stride}; }
};
using Matrix = MatrixOf<float>;
using ConstMatrix = MatrixOf<const float>;

/// A weight as it lies in the file or in memory: `rows` outputs of `cols` inputs each, each row contiguous, rows
/// `row_stride` bytes apart (so a half of a merged gate-up, or every second row, is a Weight too). Not owning.
struct Weight {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0;
  int64_t row_stride = 0;  // bytes
  // Whether panels of rows lie repacked (kernels::MatmulKernels::repack): then row(r) and row_range() are for whole
  // panels alone, and only matmuls can read it.
  bool repacked = false;
  // Which of a network's weights this is, or is a part of (layers/weight_names.h); 0: one that has no name.
  int32_t name = 0;
  // [cols], where the columns lie in another order than the inputs have: that at place c is of input columns[c]. Null:
  // in order. Only matmuls and quant::decode_row can read it.
  const int32_t* columns = nullptr;

  Weight() = default;
  Weight(const std::byte* data_, DType dtype_, int64_t rows_, int64_t cols_)
      : data(data_), dtype(dtype_), rows(rows_), cols(cols_), row_stride(row_bytes(dtype_, cols_)) {}

  explicit operator bool() const { return data != nullptr; }
  const std::byte* row(int64_t r) const { return data + r * row_stride; }
  int64_t bytes() const { return rows * row_bytes(dtype, cols); }
  Weight row_range(int64_t begin, int64_t end) const {
    Weight part = *this;
    part.data = row(begin), part.rows = end - begin;
    return part;
  }
};

}  // namespace coterie::tensor
