#include "lens/column_squares.h"

#include <algorithm>

namespace coterie::lens {

int64_t Columns::unseen() const { return std::count(rows.begin(), rows.end(), 0); }

void ColumnSquares::product(const layers::Product& product) {
  const auto found = columns_.find(product.weight.path);
  if (found == columns_.end()) return;
  Columns& entry = *found->second;
  entry.rows[static_cast<size_t>(product.weight.item)] += product.count();
  double* const sums = entry.square_sums.data() + product.weight.item * entry.cols();
  for (int64_t i = 0; i < product.count(); ++i) {
    const float* const x = product.row(i);
    for (int64_t c = 0; c < product.x.cols; ++c) sums[c] += static_cast<double>(x[c]) * static_cast<double>(x[c]);
  }
}

}  // namespace coterie::lens
