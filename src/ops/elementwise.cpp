#include "ops/elementwise.h"

#include "base/error.h"
#include "ops/rows.h"

namespace coterie::ops {

using base::require;

void add(Context& context, ConstMatrix x, Matrix y, float scale) {
  require(x.rows == y.rows && x.cols == y.cols, "add", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows, y.cols);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.add_scaled(x.row(r), scale, y.row(r), x.cols);
  });
}

void scale(Context& context, Matrix x, float factor) {
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.scale(x.row(r), factor, x.cols);
  });
}

void softcap(Context& context, Matrix x, float cap) {
  require(cap > 0, "softcap", "the cap is {}", cap);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.softcap(x.row(r), cap, x.cols);
  });
}

void clamp(Context& context, Matrix x, float limit) {
  require(limit >= 0, "clamp", "the limit is {}", limit);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.clamp(x.row(r), limit, x.cols);
  });
}

void add_gated(Context& context, ConstMatrix x, ConstMatrix gate, Matrix y) {
  require(x.rows == y.rows && x.cols == y.cols, "add_gated", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows,
          y.cols);
  require(gate.rows == x.rows && gate.cols == 1, "add_gated", "gate is [{}, {}] for {} rows", gate.rows, gate.cols,
          x.rows);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float open;
      context.kernels.vector.sigmoid(gate.row(r), &open, 1);
      context.kernels.vector.add_scaled(x.row(r), open, y.row(r), x.cols);
    }
  });
}

void gate(Context& context, kernels::Activation activation, Matrix gate, ConstMatrix x) {
  require(x.rows == gate.rows && x.cols == gate.cols, "gate", "x is [{}, {}], the gate [{}, {}]", x.rows, x.cols,
          gate.rows, gate.cols);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.activate(activation, gate.row(r), x.row(r), x.cols);
  });
}

void log_softmax(Context& context, Matrix x) {
  require(x.cols >= 1, "log_softmax", "rows without values");
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.log_softmax(x.row(r), x.cols);
  });
}

}  // namespace coterie::ops
