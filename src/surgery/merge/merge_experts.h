#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ops/context.h"
#include "surgery/merge/merge_sources.h"
#include "surgery/merge/moe_recipe.h"
#include "surgery/new_model.h"
#include "surgery/write/model_folder.h"
#include "surgery/write/written.h"

namespace coterie::surgery {

/// What merging commands have in common beside the recipe.
struct MergeOptions {
  uint64_t seed = 0;                        // of random gates, of noise, of what DARE and DELLA drop
  std::optional<tensor::DType> dtype = {};  // in place of the recipe's
  int64_t shard_bytes = 5'000'000'000;
  bool check = true;  // run what was written and compare it with the base model
  std::string text = {};
  int64_t tokens = 128;
  OnProgress on_progress = {};
};

/// How the merged model is written and checked.
NewModelOptions writing(const MergeOptions& options, bool strict = false);

struct Merged : Written {
  std::vector<std::vector<double>> routing = {};  // [E][E]: shares of the choices on each expert's positive prompts
};

/// What a recipe would make, by the configs alone.
struct MergePlan {
  std::string model_type;
  int64_t parameters = 0, active_parameters = 0, base_parameters = 0;
  std::vector<std::string> notes;
};
/// Throws as merge_experts does where configs say it; sources may be config.json files without weights.
MergePlan plan_experts(const MoeRecipe& recipe, const MergeSources& sources);

/// Puts dense models of one shape together as the experts of one mixture and writes it as a Hugging Face folder: all
/// but the FFNs is the base model's. A gate's row is the unit vector along the mean state of the expert's positive
/// prompts minus that of its negative ones; the state is what the router will read, the output of the norm before the
/// FFN of the base model.
///
/// Throws unsupported for sources of another shape or with other tokenizers, naming what differs; where the family
/// written cannot say something (published_mixture.h); bad_input for what is wrong in the recipe; io with nothing left
/// behind.
Merged merge_experts(ops::Context& context, const MoeRecipe& recipe, MergeSources& sources,
                     const std::filesystem::path& out, const MergeOptions& options);

}  // namespace coterie::surgery
