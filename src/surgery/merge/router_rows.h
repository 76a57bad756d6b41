#pragma once

#include <string>
#include <vector>

#include "families/open.h"
#include "ops/context.h"
#include "surgery/merge/moe_recipe.h"
#include "surgery/write/model_folder.h"

namespace coterie::surgery {

/// The rows of a mixture's routers.
struct RouterRows {
  std::vector<std::vector<std::vector<float>>> rows;  // [L][E][D]
  std::vector<std::vector<float>> shared;             // [L][D]; empty without a gate of a shared expert
  std::vector<std::string> notes;                     // layers where two experts are hard to tell apart
};

/// As the recipe's gate_mode says, of its prompts and the base model. Throws bad_input, naming the expert, for prompts
/// that cannot be read (prompt_states.h) and those whose positive and negative states are the same.
RouterRows make_router_rows(ops::Context& context, const families::Model& base, const MoeRecipe& recipe,
                            bool shared_gate, uint64_t seed, const OnProgress& on_progress);

}  // namespace coterie::surgery
