#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "families/ensemble/gate.h"

namespace coterie::surgery {

/// What `coterie gate` reads: whole models, and what a gate over them is fitted on.
struct EnsembleRecipe {
  struct Source {
    std::string source_model;
    std::vector<std::string> positive_prompts, negative_prompts;
    std::vector<std::string> texts;  // files
    std::string where;               // in the recipe, for messages
  };
  enum class Learn {
    labels,      // each text belongs to the model it is listed under
    likelihood,  // each text belongs to whoever predicts it: Jacobs et al. 1991, eq. 1.3
  };
  families::Gate::Kind kind = families::Gate::Kind::prompt;
  std::vector<Source> sources;
  std::string reader;  // a source_model; empty: the one with the fewest parameters
  Learn learn = Learn::labels;
  int64_t top_k = 1;
  double temperature = 1;
  int64_t tokens = 8192;  // of each file at most
  int64_t window = 128;   // tokens of a file that are read together
  int64_t steps = 300;
  double weight_decay = 1e-3;
};

/// Throws bad_input naming the key, with the nearest known one for one that is misspelt.
EnsembleRecipe read_ensemble_recipe(const base::Json& recipe, const std::string& where);

}  // namespace coterie::surgery
