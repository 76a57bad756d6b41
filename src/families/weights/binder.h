#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "families/names/name_table.h"
#include "models/network.h"
#include "tensor/buffer.h"

namespace coterie::families {

/// Whether an expert of a layer is to be bound; null: all are.
using OwnsExpert = std::function<bool(int64_t layer, int64_t expert, int64_t experts)>;

/// Points every weight of the network at its bytes in `source`, by the names of `table`. Nothing is copied but
/// vectors, which become f32, and a quantised router, which is decoded. `source` and the result must outlive the
/// network's use.
///
/// Refused, each by name: a tensor that is missing (with the names that were looked for), of another shape, or of a
/// type that is not a weight (8-bit floats without scales, integers); and tensors that nothing asked for and the table
/// does not list as inert. `tied`: a head beside tied embeddings is then a duplicate, which must be equal to the bit.
/// Experts that `owns` leaves out have to be in the files by their names; their weights stay empty, and no byte of them
/// is read (models/owned_experts.h).
models::Binding bind(models::Network& network, const checkpoint::TensorSource& source, const NameTable& table,
                     bool tied, const OwnsExpert& owns = {});

}  // namespace coterie::families
