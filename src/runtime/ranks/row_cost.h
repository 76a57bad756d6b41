#pragma once

#include <cstdint>
#include <vector>

#include "models/spec.h"

namespace coterie::runtime {

/// What a row of a prompt costs the rank that has it, in multiply-adds of its projections: the same at each position,
/// and so much more for each key that it sees. Routed experts are not counted: their owners compute them.
struct RowCost {
  struct Keys {
    double each = 0;   // of all layers that see as many
    int64_t most = 0;  // keys that are seen at most; 0: all
  };
  double alone = 1;
  std::vector<Keys> keys = {};

  double at(int64_t position) const;
};

RowCost row_cost(const models::ModelSpec& spec);

}  // namespace coterie::runtime
