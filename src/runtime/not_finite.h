#pragma once

#include <string>

#include "checkpoint/tensor_source.h"

namespace coterie::runtime {

/// "blk.3.attn_q.weight holds nan in row 7": the first weight that is not a finite number, in the order of the file.
/// Empty when all are. Reads every weight: for messages about a model that cannot be run.
std::string first_not_finite(const checkpoint::TensorSource& source);

}  // namespace coterie::runtime
