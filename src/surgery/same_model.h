#pragma once

#include <string_view>

#include "models/spec.h"

namespace coterie::surgery {

/// Throws unsupported, naming the field, where `read`, which a file says, computes something else than `model` does.
/// `keys`: what cannot say it ("GGUF's keys of this architecture"). Not compared: names, and what the tensors
/// themselves hold (offsets of norms, divisors of frequencies).
void require_same(const models::ModelSpec& model, const models::ModelSpec& read, std::string_view where,
                  std::string_view keys);

}  // namespace coterie::surgery
