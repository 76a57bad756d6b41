#include "train/recipe.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "support/temp_folder.h"

namespace coterie::train {
namespace {

constexpr const char* kLeast = R"(
model: {config: {model_type: mixtral, hidden_size: 32}}
tokenizer: {kind: characters}
data: {files: text.txt}
training: {sequence: 32, batch: 16, steps: 100, learning_rate: 1e-3}
)";

struct Recipes : testing::Test {
  Recipe read(const std::string& text) const {
    std::ofstream(folder / "tiny.yaml") << text;
    return read_recipe(folder / "tiny.yaml");
  }
  std::string message_of(const std::string& text) const {
    try {
      read(text);
    } catch (const base::Error& error) {
      const std::string where = error.where().substr(error.where().rfind("tiny.yaml"));
      return where + ": " + error.message() + (error.hint().empty() ? "" : " | " + error.hint());
    }
    return "no error";
  }
  static std::string changed(const std::string& from, const std::string& to) {
    std::string text = kLeast;
    return text.replace(text.find(from), from.size(), to);
  }
  TempFolder folder;
};

TEST_F(Recipes, TheLeastAndItsDefaults) {
  const Recipe recipe = read(kLeast);
  EXPECT_EQ(recipe.name, "tiny");
  EXPECT_EQ(recipe.config["model_type"], "mixtral");
  ASSERT_TRUE(recipe.tokenizer.trained);
  EXPECT_EQ(recipe.tokenizer.trained->kind, text::TokenizerRecipe::Kind::characters);
  ASSERT_EQ(recipe.data.texts.size(), 1u);
  EXPECT_EQ(recipe.data.texts[0].path, folder / "text.txt");
  EXPECT_EQ(recipe.data.validation, 0.1);
  EXPECT_EQ(recipe.micro_batch, 16);
  EXPECT_EQ(recipe.schedule.kind, Schedule::Kind::cosine);
  EXPECT_EQ(recipe.evaluate_every, 100);
  EXPECT_FALSE(recipe.clip);
}

TEST_F(Recipes, EveryKey) {
  const Recipe recipe = read(R"(
description: all of them
seed: 7
model: {config: {model_type: llama}, init: normal, init_std: 0.1, scale_residual: false}
tokenizer: {kind: bpe, vocabulary: 512, min_frequency: 3, special: [<end>, <pad>]}
data: {files: [a.jsonl, b.jsonl], format: jsonl, field: body, validation_files: c.jsonl, order: random}
training:
  {sequence: 8, batch: 8, micro_batch: 2, steps: 50, learning_rate: 0.01, weight_decay: 0.2, clip: 1, betas: [0.8, 0.9],
   eps: 1e-6, schedule: wsd, warmup: 5, decay: 10, floor: 0.2, recompute: true, precision: bf16}
balance: {loss: 0.01, z_loss: 0.001, bias_rate: 0.002, scope: micro_batch}
evaluation: {every: 10, batches: 4}
checkpoint: {every: 20, keep: 3}
)");
  EXPECT_EQ(recipe.seed, 7u);
  EXPECT_EQ(recipe.init.kind, models::InitialWeights::Kind::normal);
  EXPECT_EQ(recipe.init.std, 0.1);
  EXPECT_FALSE(recipe.init.scale_residual);
  EXPECT_EQ(recipe.tokenizer.trained->special, (std::vector<std::string>{"<end>", "<pad>"}));
  EXPECT_EQ(recipe.data.texts[1].field, "body");
  EXPECT_EQ(recipe.data.validation_texts.size(), 1u);
  EXPECT_EQ(recipe.data.validation, 0);
  EXPECT_EQ(recipe.data.order, Windows::Order::random);
  EXPECT_EQ(recipe.optimiser.beta1, 0.8);
  EXPECT_EQ(recipe.schedule.decay, 10);
  EXPECT_EQ(recipe.balance.scope, layers::RouterLossSpec::Scope::micro_batch);
  EXPECT_EQ(recipe.checkpoints_kept, 3);
  EXPECT_TRUE(recipe.recompute);
  EXPECT_EQ(recipe.precision, ops::Precision::bf16);
}

TEST_F(Recipes, VariantsAndSettingsReplaceKeys) {
  std::ofstream(folder / "tiny.yaml") << kLeast << R"(
variants:
  small: {training: {batch: 4}, data: {files: [a.txt, b.txt]}}
  wide: {model: {config: {hidden_size: 64, model_type: null}}}
)";
  const std::filesystem::path path = folder / "tiny.yaml";
  EXPECT_EQ(variants_of(path), (std::vector<std::string>{"small", "wide"}));
  const Recipe small = read_recipe(path, {"small", {"training.batch=8", "balance.loss=0.5"}});
  EXPECT_EQ(small.name, "tiny-small");
  EXPECT_EQ(small.batch, 8);
  EXPECT_EQ(small.sequence, 32);
  EXPECT_EQ(small.data.texts.size(), 2u);
  EXPECT_EQ(small.balance.loss_weight, 0.5);
  EXPECT_EQ(small.source["training"]["batch"], 8);
  EXPECT_FALSE(small.source.contains("variants"));
  const Recipe without = read_recipe(path, {"small",
                                            {"training.batch=null", "training.batch=2", "data.files=b.txt",
                                             "balance.loss=0.5", "balance=null", "seed=null"}});
  EXPECT_EQ(without.batch, 2);
  EXPECT_EQ(without.data.texts.size(), 1u);
  EXPECT_FALSE(without.source.contains("balance"));
  EXPECT_THROW(read_recipe(path, {"small", {"training.batch=null"}}), base::Error);
  const Recipe wide = read_recipe(path, {"wide", {}});
  EXPECT_EQ(wide.config, (base::Json{{"hidden_size", 64}}));
  try {
    read_recipe(path, {"large", {}});
    ADD_FAILURE() << "no error";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.message(), "has no variant \"large\", it has small, wide");
  }
  EXPECT_THROW(read_recipe(path, {"", {"batch"}}), base::Error);
  EXPECT_THROW(read_recipe(path, {"", {"training.bacth=8"}}), base::Error);
}

TEST_F(Recipes, FaultsAreNamed) {
  EXPECT_EQ(message_of(changed(", steps: 100", "")), "tiny.yaml: training: key \"steps\" is missing");
  // What is misspelt is not called missing.
  EXPECT_EQ(message_of(changed("steps: 100", "setps: 100")),
            "tiny.yaml: training: key \"setps\" is not known | did you mean \"steps\"?");
  EXPECT_EQ(message_of(changed("training:", "trainig:")),
            "tiny.yaml: key \"trainig\" is not known | did you mean \"training\"?");
  EXPECT_NE(message_of(changed("data:", "tune: {full: all}\ndata:")).find("coterie tune MODEL RECIPE"),
            std::string::npos);
  EXPECT_EQ(message_of(changed("config:", "confg:")),
            "tiny.yaml: model: key \"confg\" is not known | did you mean \"config\"?");
  EXPECT_EQ(message_of(changed("learning_rate: 1e-3", "learning_rate: 1e-3, warm_up: 10")),
            "tiny.yaml: training: key \"warm_up\" is not known | did you mean \"warmup\"?");
  EXPECT_EQ(message_of(changed("data:", "balanec: {}\ndata:")),
            "tiny.yaml: key \"balanec\" is not known | did you mean \"balance\"?");
  EXPECT_EQ(message_of(changed("batch: 16", "batch: 16, micro_batch: 3")),
            "tiny.yaml: training: a batch of 16 does not divide into micro_batches of 3");
  EXPECT_EQ(message_of(changed("files: text.txt", "files: []")), "tiny.yaml: data: files is missing or empty");
  EXPECT_EQ(message_of(changed("kind: characters", "kind: words")),
            "tiny.yaml: tokenizer: kind is \"words\", expected one of bpe, characters, bytes");
  EXPECT_EQ(message_of(changed("1e-3", "-1")), "tiny.yaml: training: learning_rate is -1, expected 0 to 10");
  EXPECT_EQ(message_of(changed("1e-3", "fast")),
            "tiny.yaml: training: key \"learning_rate\": expected a number, found \"fast\"");
  EXPECT_EQ(message_of(changed("files: text.txt", "files: text.txt, field: body")),
            "tiny.yaml: data: field has no effect without format: jsonl: remove it");
  EXPECT_EQ(message_of(changed("data:", "balance: {z_loss: 0.1, kind: gshard}\ndata:")),
            "tiny.yaml: balance: kind has no effect without a loss: remove it");
  EXPECT_EQ(message_of(changed("hidden_size: 32}", "hidden_size: 32}, init: kaiming, init_std: 0.1")),
            "tiny.yaml: model: init_std has no effect with init: kaiming: remove it");
  // Keys of another kind, format or schedule are known, and have no effect.
  EXPECT_EQ(message_of(changed("kind: characters", "kind: characters, vocabulary: 300")),
            "tiny.yaml: tokenizer: vocabulary has no effect without kind: bpe: remove it");
  EXPECT_EQ(message_of(changed("kind: characters", "folder: ., special: [a]")),
            "tiny.yaml: tokenizer: special has no effect beside folder, whose tokenizer is used: remove it");
  EXPECT_EQ(message_of(changed("steps: 100", "steps: 100, decay: 5")),
            "tiny.yaml: training: decay has no effect without schedule: wsd: remove it");
  EXPECT_EQ(message_of(changed("steps: 100", "steps: 100, schedule: constant, floor: 0.5")),
            "tiny.yaml: training: floor has no effect with schedule: constant: remove it");
  std::string tokens = changed("kind: characters", "folder: .");
  tokens.replace(tokens.find("text.txt"), 8, "t.safetensors, format: tokens, validation_files: v");
  EXPECT_EQ(message_of(tokens),
            "tiny.yaml: data: validation_files has no effect with format: tokens, of which validation holds a share "
            "out: remove it");
  EXPECT_EQ(message_of(changed("data:", "tune: {full: all}\ndata:")),
            "tiny.yaml: has a section tune: it is a recipe for coterie tune | coterie tune MODEL RECIPE; coterie train "
            "draws its weights anew");
  EXPECT_EQ(message_of("- a\n"), "tiny.yaml: expected the sections of a recipe, found array");
}

}  // namespace
}  // namespace coterie::train
