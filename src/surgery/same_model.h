#pragma once

#include <string_view>

#include "models/spec.h"

namespace coterie::surgery {

/// Throws unsupported, naming the field, where `read`, which a file says, computes something else than `model` does.
/// Not compared: names, and what the tensors themselves hold (offsets of norms, divisors of frequencies).
void require_same(const models::ModelSpec& model, const models::ModelSpec& read, std::string_view where);

}  // namespace coterie::surgery
