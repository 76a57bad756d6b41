#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/gradients.h"
#include "ops/rows.h"

namespace coterie::ops {

using base::require;

void rms_norm(Context& context, ConstMatrix x, const float* weight, float eps, Matrix y, float offset) {
  require(x.rows == y.rows && x.cols == y.cols, "rms_norm", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows,
          y.cols);
  require(weight != nullptr, "rms_norm", "no weight");
  if (context.tape && x.cols > 0) record_rms_norm(*context.tape, x, {x.cols, 0, weight, eps, offset}, y);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      context.kernels.vector.rms_norm(x.row(r), weight, eps, offset, y.row(r), x.cols);
    }
  });
}

void rms_norm_heads(Context& context, Matrix x, int64_t heads, const float* weight, float eps, float offset) {
  require(heads > 0 && x.cols % heads == 0, "rms_norm_heads", "{} columns cannot be {} heads", x.cols, heads);
  require(weight != nullptr, "rms_norm_heads", "no weight");
  const int64_t width = x.cols / heads;
  if (context.tape && width > 0) record_rms_norm(*context.tape, x, {width, 0, weight, eps, offset}, x);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t h = 0; h < heads; ++h) {
        float* head = x.row(r) + h * width;
        context.kernels.vector.rms_norm(head, weight, eps, offset, head, width);
      }
    }
  });
}

void rms_norm_groups(Context& context, ConstMatrix x, int64_t groups, const float* weight, float eps, Matrix y) {
  require(x.rows == y.rows && x.cols == y.cols, "rms_norm_groups", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols,
          y.rows, y.cols);
  require(groups > 0 && x.cols % groups == 0, "rms_norm_groups", "{} columns cannot be {} groups", x.cols, groups);
  require(weight != nullptr, "rms_norm_groups", "no weight");
  const int64_t width = x.cols / groups;
  if (context.tape && width > 0) record_rms_norm(*context.tape, x, {width, width, weight, eps, 0}, y);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t at = 0; at < x.cols; at += width)
        context.kernels.vector.rms_norm(x.row(r) + at, weight + at, eps, 0, y.row(r) + at, width);
    }
  });
}

void layer_norm(Context& context, ConstMatrix x, const float* weight, const float* bias, float eps, Matrix y) {
  require(x.rows == y.rows && x.cols == y.cols, "layer_norm", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows,
          y.cols);
  require(weight != nullptr, "layer_norm", "no weight");
  if (context.tape) record_layer_norm(*context.tape, x, weight, bias, eps, y);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      context.kernels.vector.layer_norm(x.row(r), weight, bias, eps, y.row(r), x.cols);
    }
  });
}

}  // namespace coterie::ops
