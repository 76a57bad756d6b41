#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ops/context.h"
#include "surgery/ensemble/ensemble_fit.h"
#include "surgery/ensemble/ensemble_recipe.h"
#include "surgery/write/model_folder.h"

namespace coterie::surgery {

struct GateMade {
  families::Gate gate;
  std::vector<std::string> models;   // their names
  int64_t fitted = 0, held_out = 0;  // samples: tokens for a token gate, else prompts and windows
  GateScore score;                   // on what was held out, or where nothing was, on what it was fitted on
};

base::Json to_json(const GateMade& made);  // its receipt

/// Fits the gate of a recipe and writes gate.json, gate.safetensors and receipt.json into a new folder: paths of models
/// relative to it, so that a gate moves with its models. Files are beside the recipe or below the current folder. Every
/// tenth window of a text, and every fifth prompt of a model that has five, is held out and scored.
///
/// Throws unsupported for models whose tokenizers differ, naming what does; bad_input for what is wrong in the recipe,
/// for prompts and texts that have no tokens, and when there is something under that name already; out_of_memory before
/// it reads what would not fit; io with nothing left behind. The models are not touched.
GateMade make_ensemble(ops::Context& context, const EnsembleRecipe& recipe, const std::filesystem::path& recipe_file,
                       const std::filesystem::path& out, const OnProgress& on_progress);

}  // namespace coterie::surgery
