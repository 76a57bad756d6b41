#pragma once

#include <cstdint>

#include "base/function_ref.h"
#include "ops/context.h"

namespace coterie::ops {

/// Elements of light work that pay for starting the pool: a few microseconds of it.
inline constexpr int64_t kParallelElements = 32768;

/// body(begin, end) over rows of `cols` elements each, split over the pool when there is enough to do. Rows are
/// independent, so the split changes no bit.
inline void for_rows(Context& context, int64_t rows, int64_t cols, base::FunctionRef<void(int64_t, int64_t)> body) {
  if (rows == 0) return;
  if (rows == 1 || rows * cols < kParallelElements) return body(0, rows);
  context.pool.split(rows, 1, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

}  // namespace coterie::ops
