#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/gradients.h"
#include "ops/rows.h"

namespace coterie::ops {

using base::require;

void rope(Context& context, const RopeTable& table, std::span<const int32_t> positions, int64_t heads, Matrix x) {
  require(static_cast<int64_t>(positions.size()) == x.rows, "rope", "{} positions for {} rows", positions.size(),
          x.rows);
  require(heads > 0 && x.cols % heads == 0, "rope", "{} columns cannot be {} heads", x.cols, heads);
  const int64_t head_dim = x.cols / heads, half = table.dims / 2;
  require(table.dims >= 0 && table.dims % 2 == 0 && table.dims <= head_dim, "rope", "{} rotary dimensions of {}",
          table.dims, head_dim);
  require(static_cast<int64_t>(table.frequency.size()) == half, "rope", "{} frequencies for {} dimensions",
          table.frequency.size(), table.dims);
  if (x.rows == 0 || half == 0) return;
  if (context.tape) record_rope(*context.tape, table, positions, heads, x);

  // The angles of a row serve all of its heads, and those of the row before when it is at the same position.
  // 64 of them cost about as much as rotating a handful of heads, so nothing is kept between calls.
  const kernels::VectorKernels& kernels = context.kernels.vector;
  const tensor::ArenaScope scope(context.arena);
  float* const angles = context.arena.take<float>(context.pool.threads() * table.dims);
  const auto rotate = [&](int64_t begin, int64_t end, float* cosine) {
    float* const sine = cosine + half;
    for (int64_t r = begin; r < end; ++r) {
      const int32_t position = positions[static_cast<size_t>(r)];
      if (r == begin || position != positions[static_cast<size_t>(r) - 1]) {
        kernels.rope_angles(table.frequency.data(), static_cast<float>(position), table.magnitude, cosine, sine, half);
      }
      for (int64_t h = 0; h < heads; ++h) {
        float* const head = x.row(r) + h * head_dim;
        if (table.style == RopeTable::Style::half)
          kernels.rope_half(head, cosine, sine, half);
        else
          kernels.rope_interleaved(head, cosine, sine, half);
      }
    }
  };
  if (x.rows == 1 || x.rows * x.cols < kParallelElements) return rotate(0, x.rows, angles);
  context.pool.split(x.rows, 1,
                     [&](int64_t begin, int64_t end, int worker) { rotate(begin, end, angles + worker * table.dims); });
}

}  // namespace coterie::ops
