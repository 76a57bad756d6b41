#include "ops/elementwise.h"

#include <algorithm>

#include "base/error.h"
#include "ops/gradients.h"
#include "ops/products.h"
#include "ops/rows.h"

namespace coterie::ops {

using base::require;

void copy(Context& context, ConstMatrix x, Matrix y) {
  require(x.rows == y.rows && x.cols == y.cols, "copy", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows, y.cols);
  if (context.tape) record_copy(*context.tape, x, {}, y);
  for (int64_t r = 0; r < y.rows; ++r) std::copy_n(x.row(r), x.cols, y.row(r));
}

void fill(Context& context, Matrix x, float value) {
  if (context.tape) context.tape->record({x}, [x](Reverse& back) { clear(back.context(), back.gradient(x)); });
  for (int64_t r = 0; r < x.rows; ++r) std::fill_n(x.row(r), x.cols, value);
}

void copy_rows(Context& context, ConstMatrix x, std::span<const int64_t> rows, Matrix y) {
  require(std::ssize(rows) == y.rows && x.cols == y.cols, "copy_rows", "{} rows of x [{}, {}] into y [{}, {}]",
          rows.size(), x.rows, x.cols, y.rows, y.cols);
  for (const int64_t row : rows) require(row >= 0 && row < x.rows, "copy_rows", "row {} of {}", row, x.rows);
  if (y.rows == 0) return;
  if (context.tape) record_copy(*context.tape, x, rows, y);
  for (int64_t r = 0; r < y.rows; ++r) std::copy_n(x.row(rows[static_cast<size_t>(r)]), x.cols, y.row(r));
}

void add(Context& context, ConstMatrix x, Matrix y, float scale) {
  require(x.rows == y.rows && x.cols == y.cols, "add", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows, y.cols);
  if (context.tape) record_add(*context.tape, x, y, scale);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.add_scaled(x.row(r), scale, y.row(r), x.cols);
  });
}

void scale(Context& context, Matrix x, float factor) {
  if (context.tape) record_scale(*context.tape, x, factor);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.scale(x.row(r), factor, x.cols);
  });
}

void softcap(Context& context, Matrix x, float cap) {
  require(cap > 0, "softcap", "the cap is {}", cap);
  if (context.tape) record_softcap(*context.tape, x, cap);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.softcap(x.row(r), cap, x.cols);
  });
}

void clamp(Context& context, Matrix x, float limit) {
  require(limit >= 0, "clamp", "the limit is {}", limit);
  if (context.tape) record_clamp(*context.tape, x, limit);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.clamp(x.row(r), limit, x.cols);
  });
}

void add_gated(Context& context, ConstMatrix x, ConstMatrix gate, Matrix y) {
  require(x.rows == y.rows && x.cols == y.cols, "add_gated", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows,
          y.cols);
  require(gate.rows == x.rows && gate.cols == 1, "add_gated", "gate is [{}, {}] for {} rows", gate.rows, gate.cols,
          x.rows);
  if (context.tape) record_add_gated(*context.tape, x, gate, y);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float open;
      context.kernels.vector.sigmoid(gate.row(r), &open, 1);
      context.kernels.vector.add_scaled(x.row(r), open, y.row(r), x.cols);
    }
  });
}

void activate(Context& context, kernels::Activation activation, Matrix x) {
  if (context.tape) record_activate(*context.tape, activation, x);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.activate(activation, x.row(r), nullptr, x.cols);
  });
}

void gate(Context& context, kernels::Activation activation, Matrix gate, ConstMatrix x) {
  require(x.rows == gate.rows && x.cols == gate.cols, "gate", "x is [{}, {}], the gate [{}, {}]", x.rows, x.cols,
          gate.rows, gate.cols);
  if (context.tape) record_gate(*context.tape, activation, gate, x);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.activate(activation, gate.row(r), x.row(r), x.cols);
  });
}

void log_softmax(Context& context, Matrix x) {
  require(x.cols >= 1, "log_softmax", "rows without values");
  refuse_tape(context, "log_softmax");  // next_token_loss has a backward pass
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.log_softmax(x.row(r), x.cols);
  });
}

void scale_heads(Context& context, ConstMatrix factor, Matrix x) {
  require(factor.rows == x.rows && factor.cols > 0 && x.cols % factor.cols == 0, "scale_heads",
          "x is [{}, {}], factor is [{}, {}]", x.rows, x.cols, factor.rows, factor.cols);
  if (context.tape) record_scale_heads(*context.tape, factor, x);
  const int64_t width = x.cols / factor.cols;
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t h = 0; h < factor.cols; ++h)
        context.kernels.vector.scale(x.row(r) + h * width, factor.row(r)[h], width);
  });
}

}  // namespace coterie::ops
