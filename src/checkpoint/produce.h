#pragma once

#include <string_view>

#include "base/atomic_file.h"
#include "checkpoint/tensor_sink.h"

namespace coterie::checkpoint {

/// Writes the tensor's bytes as it produces them. Throws internal when they are more or fewer than its shape says:
/// the header is written by then, and would lie.
void produce(const TensorToWrite& tensor, base::AtomicFile& file, std::string_view where);

}  // namespace coterie::checkpoint
