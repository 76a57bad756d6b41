#pragma once

#include <filesystem>

#include "surgery/merge/merge_experts.h"
#include "surgery/merge/merge_recipe.h"

namespace coterie::surgery {

/// Puts runs of layers of one or several models one after the other and writes the result as a Hugging Face folder; a
/// tensor may be scaled (`scale`), else its bytes are copied. Embeddings come from the first slice's model, the final
/// norm and the head from the last slice's; config and tokenizer from the base model, or the first slice's.
///
/// Throws unsupported, naming what differs, for sources whose layers the config of the result cannot say, of another
/// width or vocabulary or with another tokenizer, and for models whose layers share blocks; bad_input for layers that a
/// model lacks.
Merged merge_passthrough(ops::Context& context, const MergeRecipe& recipe, MergeSources& sources,
                         const std::filesystem::path& out, const MergeOptions& options);

}  // namespace coterie::surgery
