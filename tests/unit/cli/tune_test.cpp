// coterie tune, --adapter and merge-adapter as a user meets them, from a model that coterie train made to one merged.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"

namespace coterie::cli {
namespace {

namespace fs = std::filesystem;

struct TuneCommand : testing::Test {
  TuneCommand() {
    ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
    std::string letters;
    for (int i = 0; i < 4000; ++i) letters += static_cast<char>('a' + (i * i + i / 7) % 23);
    text = folder.write("text.txt", letters);
    const std::string made = folder.write("made.yaml", R"(
model:
  config: {model_type: mixtral, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 64,
           rms_norm_eps: 1e-5, rope_theta: 10000.0}
tokenizer: {kind: bytes}
data: {files: text.txt}
training: {sequence: 32, batch: 4, steps: 2, learning_rate: 1e-2}
)");
    EXPECT_EQ(test::coterie({"train", made, "-o", (folder / "made").string()}).code, 0);
    model = (folder / "made" / "checkpoints" / "step-0000002").string();
    recipe = folder.write("tune.yaml", R"(
tune: {lora: {targets: [attention, experts], rank: 2}}
data: {files: text.txt}
training: {sequence: 32, batch: 4, steps: 20, learning_rate: 1e-2}
evaluation: {every: 5, patience: 3}
variants:
  long: {training: {steps: 1000000}}
)");
  }
  double perplexity(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--text", text, "--precision", "f32", "--window", "32", "--json"});
    const test::Outcome done = test::coterie(arguments);
    EXPECT_EQ(done.code, 0) << done.err;
    return done.code == 0 ? base::Json::parse(done.out)["perplexity"].get<double>() : 0;
  }
  TempFolder folder;
  std::string model, recipe, text;
};

TEST_F(TuneCommand, AnAdapterFromADryRunToAMergedModelAndOverBlocks) {
  const test::Outcome dry = test::coterie({"tune", model, recipe, "--dry-run", "--json"});
  ASSERT_EQ(dry.code, 0) << dry.err;
  const base::Json counts = base::Json::parse(dry.out)["trainable"];
  EXPECT_EQ(counts["mixer"], 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16)));
  EXPECT_EQ(counts["experts"], 2 * 4 * 2 * (2 * 32 + 3 * 64));
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_FALSE(fs::exists("runs/tune"));

  const std::string run = (folder / "run").string(), best = run + "/best";
  const test::Outcome tuned = test::coterie({"tune", model, recipe, "-o", run});
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_NE(tuned.out.find("of them are trained"), std::string::npos) << tuned.out;
  ASSERT_TRUE(fs::exists(best + "/adapter_model.safetensors"));

  // The folder of a run says what in it is meant.
  for (const std::vector<std::string>& of : {std::vector<std::string>{"run", model, "-p", "a", "--adapter", run},
                                             {"run", run, "-p", "a"},
                                             {"run", (folder / "made").string(), "-p", "a"}}) {
    const test::Outcome refused = test::coterie(of);
    EXPECT_EQ(refused.code, 2);
    const bool trained = of[1] != run && of.back() != run;  // from nothing: its checkpoints are models
    const std::string meant = trained ? "training run: name " + model + "\n" : "adapter: --adapter " + best + ", over";
    EXPECT_NE(refused.err.find(meant), std::string::npos) << refused.err;
  }
  const test::Outcome alone = test::coterie({"run", best, "-p", "a"});
  EXPECT_NE(alone.err.find("is an adapter, not a model"), std::string::npos) << alone.err;
  const test::Outcome config = test::coterie({"run", model + "/config.json", "-p", "a"});
  EXPECT_NE(config.err.find("name its folder, " + model), std::string::npos) << config.err;

  const double before = perplexity({"eval", model}), after = perplexity({"eval", model, "--adapter", best});
  EXPECT_LT(after, 0.9 * before);
  EXPECT_NEAR(perplexity({"eval", model, "--adapter", best + ":0"}), before, 1e-9 * before);
  const std::string merged = (folder / "merged").string();
  ASSERT_EQ(test::coterie({"merge-adapter", model, best, "-o", merged}).code, 0);
  EXPECT_NEAR(perplexity({"eval", merged}), after, 1e-4 * after);
  const test::Outcome again = test::coterie({"merge-adapter", model, best, "-o", merged});
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("already exists"), std::string::npos) << again.err;

  // Over weights in blocks, which stay as they are.
  const std::string gguf = (folder / "q8.gguf").string(), over = (folder / "over").string();
  ASSERT_EQ(test::coterie({"convert", model, "-o", gguf, "--to", "q8_0"}).code, 0);
  const std::string bytes = base::read_text(gguf);
  const test::Outcome blocks = test::coterie({"tune", gguf, recipe, "-o", over});
  ASSERT_EQ(blocks.code, 0) << blocks.err;
  EXPECT_TRUE(base::read_text(gguf) == bytes);
  EXPECT_LT(perplexity({"eval", gguf, "--adapter", over + "/best"}), 0.9 * before);
  // Its names are those of transformers: it fits the folder too.
  EXPECT_LT(perplexity({"eval", model, "--adapter", over + "/best"}), 0.9 * before);
  const test::Outcome refused = test::coterie({"tune", gguf, recipe, "-o", over + "2", "--set", "tune={full: all}"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("Hugging Face folder"), std::string::npos) << refused.err;
}

TEST_F(TuneCommand, InterruptedItResumesAndWrongUsageSaysWhat) {
  const std::string run = (folder / "run").string();
  const test::Outcome stopped = test::coterie(
      {"tune", model, recipe, "-o", run, "--variant", "long", "--set", "evaluation.patience=0"}, {.interrupt = true});
  EXPECT_EQ(stopped.code, 130) << stopped.err;
  EXPECT_NE(stopped.err.find("--resume"), std::string::npos) << stopped.err;
  const test::Outcome wrong =
      test::coterie({"tune", model, recipe, "-o", run + "2", "--set", "tune.lora.targets=expert"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("did you mean \"experts\"?"), std::string::npos) << wrong.err;
  const test::Outcome none = test::coterie({"run", model, "-p", "a", "--adapter", model});
  EXPECT_EQ(none.code, 2);
  EXPECT_NE(none.err.find("adapter_config.json"), std::string::npos) << none.err;
  const std::string chats = folder.write(
      "chat.jsonl", R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})");
  const test::Outcome no_template = test::coterie(
      {"tune", model, recipe, "-o", run + "3", "--set", "data={files: chat.jsonl, format: instructions}"});
  EXPECT_EQ(no_template.code, 2);
  EXPECT_NE(no_template.err.find("chat.jsonl: line 1: the model has no chat template"), std::string::npos)
      << no_template.err;
}

TEST_F(TuneCommand, AFullDiskLeavesNothingHalfWrittenAndAnotherModelsAdapterIsRefused) {
  const auto tune = [&](const std::string& out, const test::Surroundings& with) {
    return test::coterie({"tune", model, recipe, "-o", (folder / out).string(), "--set", "training.steps=2"}, with);
  };
  ASSERT_EQ(tune("run", {}).code, 0);
  const fs::path adapter = folder / "run" / "best" / "adapter_model.safetensors";
  const test::Outcome full = tune("small", {.largest_file = static_cast<int64_t>(fs::file_size(adapter)) - 100});
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_FALSE(fs::exists(folder / "small")) << "a run that did not come to begin leaves nothing";

  const std::string merged = (folder / "merged").string();
  const auto size = static_cast<int64_t>(fs::file_size(fs::path(model) / "model.safetensors"));
  const test::Outcome no_room = test::coterie({"merge-adapter", model, adapter.parent_path().string(), "-o", merged},
                                              {.largest_file = size - 100});
  EXPECT_EQ(no_room.code, 1) << no_room.err;
  EXPECT_NE(no_room.err.find(merged + "/model.safetensors"), std::string::npos) << no_room.err;
  EXPECT_EQ(no_room.err.find(".partial"), std::string::npos) << no_room.err;
  const test::Outcome nowhere =
      test::coterie({"merge-adapter", model, adapter.parent_path().string(), "-o", (model + "/config.json/where")});
  EXPECT_EQ(nowhere.code, 1) << nowhere.err;
  EXPECT_EQ(nowhere.err.find(".partial"), std::string::npos) << nowhere.err;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path()))
    EXPECT_FALSE(entry.path().filename().string().starts_with("merged")) << entry.path();

  const std::string made = (folder / "made.yaml").string(), wider = (folder / "wider").string();
  ASSERT_EQ(test::coterie({"train", made, "-o", wider, "--set", "model.config.hidden_size=64"}).code, 0);
  const test::Outcome other = test::coterie(
      {"run", wider + "/checkpoints/step-0000002", "-p", "a", "--adapter", adapter.parent_path().string()});
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("expected ["), std::string::npos) << other.err;
}

}  // namespace
}  // namespace coterie::cli
