#pragma once

#include <memory>

#include "cli/serve_options.h"
#include "serve/api/model_shelf.h"

namespace coterie::cli {

/// The models that `coterie serve` was given, the one without a name loaded already. Takes the names of `options`
/// apart. Throws what opening a model throws.
std::unique_ptr<serve::ModelShelf> served_models(ServeOptions& options);

}  // namespace coterie::cli
