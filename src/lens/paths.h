#pragma once

#include <cstdint>

#include "base/json.h"
#include "lens/study.h"

namespace coterie::lens {

/// How a token's first experts of all layers go together: the commonest paths, and clusters of them (k modes under the
/// number of layers in which two paths differ).
base::Json paths(const Corpus& corpus, int64_t clusters);

}  // namespace coterie::lens
