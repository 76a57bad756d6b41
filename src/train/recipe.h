#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "layers/moe/balance.h"
#include "models/initialise.h"
#include "ops/context.h"
#include "text/tokenizer_training.h"
#include "train/adamw.h"
#include "train/schedule.h"
#include "train/token_file.h"
#include "train/tune_recipe.h"
#include "train/windows.h"

namespace coterie::train {

/// Whose vocabulary a run uses: one that it trains on its own data, or one that is there.
struct TokenizerChoice {
  std::optional<text::TokenizerRecipe> trained;
  std::filesystem::path folder;
};

struct DataRecipe {
  std::vector<std::filesystem::path> instructions, validation_instructions;  // conversations (InstructionFile), or …
  std::vector<TextSource> texts;                                             // …
  std::vector<std::filesystem::path> tokens;                                 // … or files of tokens (TokenFile)
  std::vector<TextSource> validation_texts;  // none: the last `validation` of the stream
  double validation = 0.1;
  Windows::Order order = Windows::Order::shuffled;
};

/// What keeps the experts' loads even.
struct BalanceRecipe {
  // Which load-balancing loss, of each layer by itself (layers/moe/balance.h), and its weight. Switch's and GShard's
  // are 1 at balance, importance and load 0.
  layers::RouterLossSpec::Balance kind = layers::RouterLossSpec::Balance::all_choices;
  double loss_weight = 0;
  double z_weight = 0;   // of the mean of logsumexp² of the router's logits (Zoph et al. 2022, arXiv:2202.08906)
  double bias_rate = 0;  // of the update of the selection bias (Wang et al. 2024, arXiv:2408.15664)
  layers::RouterLossSpec::Scope scope = layers::RouterLossSpec::Scope::batch;  // over which tokens the loss is one
};

/// A training run, as its YAML file says it. Paths are relative to that file.
struct Recipe {
  std::string name;                            // of the file, without its ending
  std::string description;                     // first words of the report
  base::Json source;                           // the file with variant, settings and extensions, for the log
  base::Json origin;                           // of what it was read: name, file (absolute), variant
  base::Json before;                           // `source` before it was extended; null where it was not
  base::Json extended = base::Json::object();  // by key: {"was": …, "is": …}
  uint64_t seed = 0;

  base::Json config;  // config.json's keys; vocab_size is the tokenizer's where it is not given
  models::InitialWeights init;
  TokenizerChoice tokenizer;
  base::Json sampling = base::Json::object();  // how the model is to be sampled, in generation_config.json's keys
  DataRecipe data;

  int64_t sequence = 0;     // T, inputs of a sequence
  int64_t batch = 0;        // sequences of a step
  int64_t micro_batch = 0;  // sequences that are in memory together; their gradients add up to the step's
  // Parts that a batch is dealt out to, each with a sum of its own; ranks that train together share them. At most
  // batch / shards sequences are a micro-batch.
  int64_t shards = 1;
  int64_t evaluation_batch =
      0;  // sequences that an evaluation looks at together: micro_batch before shards made it less
  double learning_rate = 0;
  double weight_decay = 0.1, vector_decay = 0;  // of matrices and embeddings; of norms and biases
  std::optional<double> clip;                   // of the norm of all gradients
  AdamWSpec optimiser;
  Schedule schedule;
  ops::Precision precision = ops::Precision::f32;  // or bf16, where the CPU multiplies it
  bool recompute = false;  // activations are computed again in the backward pass instead of kept
  double dropout = 0;      // share of what mixers and FFNs give
  BalanceRecipe balance;

  double expert_dropout = 0;  // share of the values inside routed experts

  // Weight of the loss of the model's head for multi-token prediction, which is trained beside it; 0: there is none.
  double prediction_loss = 0;

  // A model that is there is tuned, in place of config, init and tokenizer above.
  std::optional<TuneRecipe> tune;

  int64_t patience = 0;  // evaluations without a better validation loss before the run ends; 0: it goes to its end
  int64_t evaluate_every = 0, evaluate_batches = 0;  // 0 batches: all of the validation data
  /// The first windows of `there`, which are judged.
  int64_t windows_of_evaluation(int64_t there) const {
    return evaluate_batches > 0 ? std::min(evaluate_batches * batch, there) : there;
  }
  int64_t checkpoint_every = 0, checkpoints_kept = 2;
};

/// What is asked of a recipe on top of what its file says.
struct RecipeChoice {
  std::string variant;                // one of variants_of(); empty: the file without them
  std::vector<std::string> settings;  // "training.steps=100", the value in YAML
  std::filesystem::path tuned = {};   // the model that is tuned; empty: the recipe makes one
  // "steps=3000": of training, how long it goes on and at which rates, for a run that has begun (extensible_keys()).
  std::vector<std::string> extensions = {};
};

/// Keys of `training` that may be changed while a run is resumed: what was trained before does not depend on them.
const std::vector<std::string>& extensible_keys();

/// Throws bad_input naming the file and the key, with the nearest known key for one that is misspelt.
Recipe read_recipe(const std::filesystem::path& path, const RecipeChoice& choice = {});

/// The recipe that the run in a folder began with, and what it was extended by since; `extensions` come on top. Throws
/// not_found where there is no run, and bad_input for a run that does not say which file it was read from.
Recipe read_recipe_of_run(const std::filesystem::path& run, const std::vector<std::string>& extensions = {});

/// The names under `variants`, in alphabetical order: each is an object of keys that replace those of the recipe
/// (a null takes one away), so that runs that are to be compared are in one file.
std::vector<std::string> variants_of(const std::filesystem::path& path);

}  // namespace coterie::train
