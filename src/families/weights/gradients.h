#pragma once

#include <string>
#include <vector>

#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "families/names/name_table.h"
#include "models/parameters.h"

namespace coterie::families {

/// The gradients as tensors with the names and shapes that the weights have in `source`, `prefix` before each.
/// `parameters` must outlive what is returned.
std::vector<checkpoint::TensorToWrite> gradients_to_write(const models::Parameters& parameters, const NameTable& names,
                                                          const checkpoint::TensorSource& source,
                                                          const std::string& prefix);

}  // namespace coterie::families
