#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "surgery/compare.h"

namespace coterie::surgery {

/// What a surgery that makes a new model has written.
struct Written {
  std::string model_type;
  int64_t tensors = 0, bytes = 0, parameters = 0, active_parameters = 0;
  std::vector<std::string> notes;        // for people: what the options or the sources led to
  std::optional<Comparison> comparison;  // with what it was made of
};

}  // namespace coterie::surgery
