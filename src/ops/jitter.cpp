#include "ops/jitter.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

namespace {

/// f(row, column, factor) for every element.
template <typename F>
void for_factors(Context& context, int64_t n, int64_t cols, float amount, const DropoutRow* rows, uint64_t place,
                 const F& f) {
  constexpr uint64_t kPurpose = uint64_t{0x4a697474} << 32;
  for_rows(context, n, cols * 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t i = 0; i < cols; i += 4) {
        const auto bits =
            base::Philox::block(rows[r].sample, kPurpose | place,
                                static_cast<uint64_t>(rows[r].position) << 24 | static_cast<uint64_t>(i / 4));
        for (int64_t j = i; j < std::min(i + 4, cols); ++j) {
          const float uniform = static_cast<float>(bits[static_cast<size_t>(j - i)] >> 8) * 0x1p-24f;
          f(r, j, 1 + amount * (2 * uniform - 1));
        }
      }
  });
}

}  // namespace

void jitter(Context& context, tensor::ConstMatrix x, float amount, std::span<const DropoutRow> rows, uint64_t place,
            tensor::Matrix y) {
  base::require(amount >= 0 && amount < 1, "jitter", "an amount of {}", amount);
  base::require(y.rows == x.rows && y.cols == x.cols && std::ssize(rows) == x.rows, "jitter",
                "x [{}, {}], y [{}, {}], {} rows named", x.rows, x.cols, y.rows, y.cols, rows.size());
  base::require(place < uint64_t{1} << 32 && x.cols < int64_t{1} << 26, "jitter", "place {}, {} columns", place,
                x.cols);
  if (context.tape) {
    const DropoutRow* const saved = context.tape->save(rows);
    context.tape->record({y}, [x, y, amount, saved, place](Reverse& back) {
      const tensor::Matrix dx = back.gradient(x), dy = back.gradient(y);
      for_factors(back.context(), x.rows, x.cols, amount, saved, place, [&](int64_t r, int64_t j, float factor) {
        dx.row(r)[j] += dy.row(r)[j] * factor;
        dy.row(r)[j] = 0;
      });
    });
  }
  for_factors(context, x.rows, x.cols, amount, rows.data(), place,
              [&](int64_t r, int64_t j, float factor) { y.row(r)[j] = x.row(r)[j] * factor; });
}

}  // namespace coterie::ops
