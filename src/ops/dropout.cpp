#include "ops/dropout.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

namespace {

void drop(Context& context, tensor::Matrix x, float rate, const DropoutRow* rows, uint64_t place) {
  constexpr uint64_t kPurpose = uint64_t{0x44726f70} << 32;  // apart from routers' and samplers' draws by the same key
  const auto limit = static_cast<uint32_t>(std::ldexp(static_cast<double>(rate), 32));
  const float scale = 1 / (1 - rate);
  for_rows(context, x.rows, x.cols * 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* const row = x.row(r);
      for (int64_t i = 0; i < x.cols; i += 4) {
        const auto bits =
            base::Philox::block(rows[r].sample, kPurpose | place,
                                static_cast<uint64_t>(rows[r].position) << 24 | static_cast<uint64_t>(i / 4));
        for (int64_t j = i; j < std::min(i + 4, x.cols); ++j)
          row[j] = bits[static_cast<size_t>(j - i)] < limit ? 0 : row[j] * scale;
      }
    }
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
