#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/gradients.h"
#include "ops/rows.h"
#include "quant/rows.h"

namespace coterie::ops {

using base::require;

void embed(Context& context, std::span<const int32_t> ids, const tensor::Weight& table, Matrix y, float scale) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  require(y.rows == rows && y.cols == table.cols, "embed", "{} ids of a [{}, {}] table into y [{}, {}]", rows,
          table.rows, table.cols, y.rows, y.cols);
  require(!table.repacked, "embed", "repacked rows of {}, which only matmuls read", tensor::name(table.dtype));
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t id = ids[static_cast<size_t>(r)];
    require(id >= 0 && id < table.rows, "embed", "id {} of a vocabulary of {}", id, table.rows);
  }
  if (context.tape) record_embed(*context.tape, ids, table, y, scale);
  for_rows(context, rows, table.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      quant::decode_row(table, ids[static_cast<size_t>(r)], y.row(r));
      if (scale != 1) context.kernels.vector.scale(y.row(r), scale, table.cols);
    }
  });
}

}  // namespace coterie::ops
