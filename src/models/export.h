#pragma once

#include <vector>

#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "models/decoder.h"
#include "models/names/name_table.h"

namespace coterie::models {

/// Every weight of a bound model, as it is, under the first name its table gives: experts one by one or stacked as
/// that name has them. Vectors are written as f32, which is what they are in memory. The decoder must outlive the use.
std::vector<checkpoint::TensorToWrite> tensors_to_write(const Decoder& decoder, const NameTable& names);

/// Every tensor of a source, as it is.
std::vector<checkpoint::TensorToWrite> tensors_to_write(const checkpoint::TensorSource& source);

}  // namespace coterie::models
