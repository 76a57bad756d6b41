#pragma once

#include <cstdint>

#include "ops/row_share.h"

namespace coterie::runtime {

/// Which of a model's weights one of several ranks reads, besides those that are not bound to it at all.
struct OwnWeights {
  ops::RowDivision rows = {};                      // Split::rows: of each weight
  int64_t first_layer = 0, end_layer = INT64_MAX;  // Split::layers, and whether what belongs to no layer is read

  bool outside = true;

  /// layer -1: what belongs to none.
  bool has_layer(int64_t layer) const { return layer < 0 ? outside : layer >= first_layer && layer < end_layer; }
};

}  // namespace coterie::runtime
