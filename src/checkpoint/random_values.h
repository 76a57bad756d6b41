#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "checkpoint/random_stream.h"
#include "tensor/dtype.h"

namespace coterie::checkpoint {

/// Fills whole blocks of one format from a stream.
using RandomFill = std::function<void(RandomStream&, std::span<std::byte>)>;

/// Values with standard deviation `scale` and mean `offset` (0 for block formats, whose codes are uniform and whose
/// scales vary by a quarter between blocks). Throws unsupported for a dtype that is not a weight format.
RandomFill random_fill(tensor::DType dtype, float scale, float offset);

}  // namespace coterie::checkpoint
