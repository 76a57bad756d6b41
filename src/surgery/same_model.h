#pragma once

#include <string>
#include <string_view>

#include "models/spec.h"

namespace coterie::surgery {

/// How a difference is told: "{cannot} the {field}: 3 in the {a}, 4 {b}", and what to do.
struct DifferenceWords {
  std::string cannot = "GGUF's keys of this architecture cannot say the";
  std::string a = "in the model", b = "by the file";
  std::string hint = "the model runs as it is, from its folder";
};

/// Throws unsupported, naming the field, where `read`, which a file says, computes something else than `model` does.
/// Not compared: names, and what the tensors themselves hold (offsets of norms, divisors of frequencies).
void require_same(const models::ModelSpec& model, const models::ModelSpec& read, std::string_view where,
                  const DifferenceWords& words = {});

}  // namespace coterie::surgery
