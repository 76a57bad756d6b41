#pragma once

#include <memory>

#include "models/bound_decoder.h"
#include "models/spec.h"

namespace coterie::models {

/// A decoder of which every weight is zero, bound to no file: what a training run starts from. All matrices share one
/// piece of memory, so they are to be pointed elsewhere (Parameters) before any is changed.
std::unique_ptr<BoundDecoder> blank_decoder(const ModelSpec& spec);

}  // namespace coterie::models
