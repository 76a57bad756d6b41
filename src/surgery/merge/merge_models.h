#pragma once

#include <filesystem>

#include "surgery/merge/merge_experts.h"
#include "surgery/merge/merge_recipe.h"

namespace coterie::surgery {

/// Merges models of one shape tensor by tensor, each by its name in the files, and writes the result as a Hugging Face
/// folder with the base model's config and tokenizer (the first model's where there is no base). Any family, dense or
/// not. One tensor of each model is in memory at a time. Layers that are put one after the other: passthrough.h.
///
/// Throws unsupported, naming what differs, for sources of another shape, with another tokenizer or with tensors of
/// other names; bad_input for settings that no filter gives a tensor, and densities outside (0, 1].
Merged merge_models(ops::Context& context, const MergeRecipe& recipe, MergeSources& sources,
                    const std::filesystem::path& out, const MergeOptions& options);

}  // namespace coterie::surgery
