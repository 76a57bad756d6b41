// Runs that go on otherwise than they began: for longer, or from an earlier checkpoint; and what they take of memory.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <optional>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/memory.h"
#include "families/open.h"
#include "kernels/table.h"
#include "support/temp_folder.h"
#include "train/memory_forecast.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace coterie::train {
namespace {

namespace fs = std::filesystem;

// A step takes a millisecond; with dropout, so that what is drawn must come back.
constexpr const char* kMixtral = R"(
model:
  config: {model_type: mixtral, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 16,
           rms_norm_eps: 1e-5, rope_theta: 10000.0}
tokenizer: {kind: bytes}
data: {files: text.txt, validation: 0.2}
training: {sequence: 8, batch: 4, micro_batch: 2, steps: 12, learning_rate: 1e-2, clip: 1, dropout: 0.1}
balance: {loss: 0.01, z_loss: 0.001}
evaluation: {every: 6}
checkpoint: {every: 5}
)";

struct Resuming : testing::Test {
  Resuming() { write("text.txt", text(600)); }

  static std::string text(int length) {
    std::string result;
    for (int i = 0; i < length; ++i) result += static_cast<char>('a' + (i * i + i / 7) % 23);
    return result;
  }
  void write(const std::string& name, const std::string& content) const { std::ofstream(folder / name) << content; }
  static std::string changed(std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    return at == std::string::npos ? "no " + from : text.replace(at, from.size(), to);
  }
  bool train(const std::string& recipe, const std::string& run, bool resume = false) const {
    write("tiny.yaml", recipe);
    threads::Pool pool(2);
    Trainer trainer(read_recipe(folder / "tiny.yaml"), {folder / run, resume, 0}, pool, kernels::select());
    return trainer.run(false);
  }
  std::string bytes(const std::string& run, const std::string& file, int64_t step = 12) const {
    return base::read_text(folder / run / "checkpoints" / fmt::format("step-{:07}", step) / file);
  }
  std::vector<base::Json> events(const std::string& run, const std::string& kind) const {
    std::vector<base::Json> result;
    std::ifstream log(folder / run / "log.jsonl");
    for (std::string line; std::getline(log, line);)
      if (base::Json event = base::Json::parse(line); event["kind"] == kind) result.push_back(event);
    return result;
  }
  std::string message_of(const std::string& recipe, const std::string& run, bool resume = false) const {
    try {
      train(recipe, run, resume);
    } catch (const base::Error& error) {
      return error.where() + ": " + error.message() + " | " + error.hint();
    }
    return "no error";
  }
  TempFolder folder;
};

// The learning rate is constant, so that a run that was made longer is the longer run to the bit.
TEST_F(Resuming, ExtendedIsTheLongerRunAndRecordsIt) {
  const std::string constant = changed(kMixtral, "clip: 1", "clip: 1, schedule: constant");
  ASSERT_TRUE(train(changed(constant, "steps: 12", "steps: 20"), "whole"));
  ASSERT_TRUE(train(constant, "run"));
  const auto go_on = [&](const std::vector<std::string>& extensions, std::optional<int64_t> from = {}) {
    threads::Pool pool(2);
    Trainer trainer(read_recipe_of_run(folder / "run", extensions), {folder / "run", true, 0, from}, pool,
                    kernels::select(), {});
    return trainer.run(false);
  };
  EXPECT_TRUE(go_on({"steps=20"}));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(bytes("whole", file, 20) == bytes("run", file, 20)) << file;
  const base::Json recipe = base::read_json(folder / "run" / "recipe.json");
  EXPECT_EQ(recipe["training"]["steps"], 20);
  EXPECT_EQ(recipe["extended"],
            base::Json::parse(R"([{"step": 12, "changes": {"training.steps": {"was": 12, "is": 20}}}])"));
  EXPECT_EQ(events("run", "resume").back()["extended"]["training.steps"]["is"], 20);
  EXPECT_TRUE(go_on({})) << "by the recipe as it is now";
  const auto refused = [&](const std::vector<std::string>& extensions) {
    try {
      go_on(extensions);
    } catch (const base::Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(refused({"steps=15"}).find("the run is at step 20 of 15"), std::string::npos);
  EXPECT_NE(refused({"batch=8"}).find("one of steps, schedule"), std::string::npos);
  EXPECT_NE(refused({"steps"}).find("KEY=VALUE"), std::string::npos);
  EXPECT_EQ(base::read_json(folder / "run" / "recipe.json")["training"]["steps"], 20)
      << "what is refused changes nothing";
}

TEST_F(Resuming, OfADamagedCheckpointTheOneBeforeIsOffered) {
  ASSERT_TRUE(train(kMixtral, "whole"));
  ASSERT_TRUE(train(kMixtral, "run"));
  const fs::path optimiser = folder / "run" / "checkpoints" / "step-0000012" / "optimizer.safetensors";
  fs::resize_file(optimiser, fs::file_size(optimiser) - 10);
  EXPECT_NE(message_of(kMixtral, "run", true).find("that of step 10: `from` 10 beside `resume`"), std::string::npos);
  threads::Pool pool(2);
  const auto from = [&](int64_t step) {
    Trainer trainer(read_recipe_of_run(folder / "run"), {folder / "run", true, 0, step}, pool, kernels::select(), {});
    return trainer.run(false);
  };
  EXPECT_THROW(from(7), base::Error);
  EXPECT_TRUE(from(10));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(bytes("whole", file) == bytes("run", file)) << file;
}

TEST_F(Resuming, WhatDoesNotFitIsRefusedBeforeItIsTaken) {
  const std::string refused =
      message_of(changed(kMixtral, "intermediate_size: 24", "intermediate_size: 200000000"), "run");
  EXPECT_NE(refused.find("memory are available"), std::string::npos) << refused;
  EXPECT_FALSE(fs::exists(folder / "run"));
  // A bound from below, that is not far below: of a model whose activations outweigh its parameters.
  write("text.txt", text(40000));
  const std::string wide =
      changed(changed(kMixtral, "sequence: 8, batch: 4, micro_batch: 2", "sequence: 512, batch: 8"),
              "max_position_embeddings: 16", "max_position_embeddings: 512");
  write("tiny.yaml", changed(wide, "steps: 12", "steps: 1"));
  const Recipe recipe = read_recipe(folder / "tiny.yaml");
  threads::Pool pool(2);
  Trainer trainer(recipe, {folder / "wide", false, 0}, pool, kernels::select(), {});
  const int64_t before = base::resident_memory();
  ASSERT_TRUE(trainer.run(false));
  const models::ModelSpec spec = families::read_spec(checkpoint::resolve_model(folder / "wide" / "config.json"));
  const MemoryForecast forecast = forecast_memory(spec, 0, recipe.micro_batch * recipe.sequence, false);
  const auto taken = static_cast<double>(base::peak_resident_memory() - before);
  EXPECT_LT(static_cast<double>(forecast.activations), 1.1 * taken);
  EXPECT_GT(static_cast<double>(forecast.activations), 0.15 * taken);
}

}  // namespace
}  // namespace coterie::train
