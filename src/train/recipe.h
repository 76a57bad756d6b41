#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer_training.h"
#include "train/adamw.h"
#include "train/schedule.h"
#include "train/token_file.h"
#include "train/windows.h"

namespace coterie::train {

/// How weights are drawn before the first step. Norms start at one, biases at zero, whatever this says.
struct InitialWeights {
  enum class Kind {
    normal,   // N(0, std²)
    kaiming,  // matrices N(0, 2 / inputs) (He et al. 2015), embeddings N(0, 1)
  };
  Kind kind = Kind::normal;
  double std = 0.02;
  bool scale_residual = true;  // normal: projections that end in the residual stream by 1 / √(2 L) (GPT-2)
};

/// Whose vocabulary a run uses: one that it trains on its own data, or one that is there.
struct TokenizerChoice {
  std::optional<text::TokenizerRecipe> trained;
  std::filesystem::path folder;
};

struct DataRecipe {
  std::vector<TextSource> texts;              // …
  std::vector<std::filesystem::path> tokens;  // … or files of tokens (TokenFile)
  std::vector<TextSource> validation_texts;   // none: the last `validation` of the stream
  double validation = 0.1;
  Windows::Order order = Windows::Order::shuffled;
};

/// What keeps the experts' loads even.
struct BalanceRecipe {
  double loss_weight = 0;  // of the load-balancing loss (Fedus et al. 2021), each layer by itself, 1 at balance
  double z_weight = 0;     // of the mean of logsumexp² of the router's logits (Zoph et al. 2022, arXiv:2202.08906)
  double bias_rate = 0;    // of the update of the selection bias (Wang et al. 2024, arXiv:2408.15664)
  enum class Scope { micro_batch, sequence, batch };
  Scope scope = Scope::batch;  // over which tokens the loss is one
};

/// A training run, as its YAML file says it. Paths are relative to that file.
struct Recipe {
  std::string name;         // of the file, without its ending
  std::string description;  // first words of the report
  base::Json source;        // the file, for the log
  uint64_t seed = 0;

  base::Json config;  // config.json's keys; vocab_size is the tokenizer's where it is not given
  InitialWeights init;
  TokenizerChoice tokenizer;
  DataRecipe data;

  int64_t sequence = 0;     // T, inputs of a sequence
  int64_t batch = 0;        // sequences of a step
  int64_t micro_batch = 0;  // sequences that are in memory together; their gradients add up to the step's
  double learning_rate = 0, weight_decay = 0.1;
  std::optional<double> clip;  // of the norm of all gradients
  AdamWSpec optimiser;
  Schedule schedule;
  bool recompute = false;  // activations are computed again on the way back instead of kept
  BalanceRecipe balance;

  int64_t evaluate_every = 0, evaluate_batches = 0;  // 0 batches: all of the validation data
  int64_t checkpoint_every = 0, checkpoints_kept = 2;
};

/// Throws bad_input naming the file and the key, with the nearest known key for one that is misspelt.
Recipe read_recipe(const std::filesystem::path& path);

}  // namespace coterie::train
