#include "ops/dropout.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

void drop_piece(float* values, int64_t col, int64_t n, float rate, const DropoutRow& row, uint64_t place) {
  constexpr uint64_t kPurpose = uint64_t{0x44726f70} << 32;  // apart from routers' and samplers' draws by the same key
  const auto limit = static_cast<uint32_t>(std::ldexp(static_cast<double>(rate), 32));
  const float scale = 1 / (1 - rate);
  for (int64_t i = 0; i < n; i += 4) {
    const auto bits = base::Philox::block(
        row.sample, kPurpose | place, static_cast<uint64_t>(row.position) << 24 | static_cast<uint64_t>((col + i) / 4));
    for (int64_t j = i; j < std::min(i + 4, n); ++j)
      values[j] = bits[static_cast<size_t>(j - i)] < limit ? 0 : values[j] * scale;
  }
}

namespace {

void drop(Context& context, tensor::Matrix x, float rate, const DropoutRow* rows, uint64_t place) {
  for_rows(context, x.rows, x.cols * 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) drop_piece(x.row(r), 0, x.cols, rate, rows[r], place);
  });
}

}  // namespace

void dropout(Context& context, tensor::Matrix x, float rate, std::span<const DropoutRow> rows, uint64_t place) {
  base::require(rate >= 0 && rate < 1, "dropout", "a rate of {}", rate);
  base::require(std::ssize(rows) == x.rows, "dropout", "{} rows are named, x has {}", rows.size(), x.rows);
  base::require(place < uint64_t{1} << 32 && x.cols < int64_t{1} << 26, "dropout", "place {}, {} columns", place,
                x.cols);
  if (rate == 0 || x.rows == 0) return;
  if (context.tape) {
    const DropoutRow* const saved = context.tape->save(rows);
    context.tape->record(
        {x}, [x, rate, saved, place](Reverse& back) { drop(back.context(), back.gradient(x), rate, saved, place); });
  }
  drop(context, x, rate, rows.data(), place);
}

}  // namespace coterie::ops
