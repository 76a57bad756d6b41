#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "models/spec.h"
#include "ops/context.h"
#include "train/recipe.h"
#include "train/run_folder.h"

// What a run is refused for before it begins, and what is said when it cannot go on.
namespace coterie::train {

/// Throws unsupported, naming the key, when these kernels do not multiply in the recipe's precision.
void require_precision(const Recipe& recipe, const kernels::KernelTable& kernels);

/// Throws bad_input when so many ranks cannot share the recipe's shards evenly.
void require_ranks(const Recipe& recipe, int64_t ranks);

/// Throws out_of_memory, with both figures, when what training takes would not fit. The parameters of a model that is
/// tuned are counted where they are made (TunedModel). `share`: of the routed experts, that are trained in this
/// process.
void require_room(const Recipe& recipe, const models::ModelSpec& spec, double share = 1);

/// The step of the checkpoint that a run goes on from: `from`, else the newest; nothing where it begins. Throws
/// not_found for a step that has none, and bad_input for a recipe that extends a run where there is none.
std::optional<int64_t> checkpoint_to_take(const RunFolder& folder, const Recipe& recipe, bool resumed,
                                          std::optional<int64_t> from);

/// Throws the error again with a hint, when it is about the checkpoint that was to be taken: which one is before it.
void offer_earlier(const base::Error& error, const std::filesystem::path& run, std::optional<int64_t> from);

}  // namespace coterie::train
