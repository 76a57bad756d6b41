#include "ops/elementwise.h"
#include "ops/products.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

namespace {

// With y = x f/d + b: df += Σ_n dy x / d, db += Σ_n dy, dx = dy f/d.
void record(Tape& tape, Matrix x, const float* factor, const float* divisor, const float* bias) {
  const ConstMatrix saved = tape.save(x);
  tape.record({x}, [=](Reverse& back) {
    Context& context = back.context();
    const Matrix dx = back.gradient(x);
    float *const dfactor = back.gradient(factor), *const dbias = back.gradient(bias);
    if (dbias) add_column_sums(context, dx, dbias);
    const Matrix along = dfactor ? context.arena.matrix(x.rows, x.cols) : Matrix();
    for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t i = 0; i < x.cols; ++i) {
          if (dfactor) along.row(r)[i] = dx.row(r)[i] * saved.row(r)[i] / divisor[i];
          dx.row(r)[i] *= factor[i] / divisor[i];
        }
    });
    if (dfactor) add_column_sums(context, along, dfactor);
  });
}

}  // namespace

void scale_columns(Context& context, Matrix x, const float* factor, const float* divisor, const float* bias) {
  if (x.rows == 0) return;
  if (context.tape) record(*context.tape, x, factor, divisor, bias);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* const row = x.row(r);
      for (int64_t i = 0; i < x.cols; ++i) row[i] *= factor[i] / divisor[i];
      for (int64_t i = 0; bias && i < x.cols; ++i) row[i] += bias[i];
    }
  });
}

}  // namespace coterie::ops
