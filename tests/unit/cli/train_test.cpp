// coterie train as a user meets it: interrupted, killed, on a full disk.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/cli/terminal_session.h"

namespace coterie::cli {
namespace {

namespace fs = std::filesystem;

struct TrainCommand : testing::Test {
  TrainCommand() {
    ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
    std::string text;
    for (int i = 0; i < 4000; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 23);
    folder.write("text.txt", text);
    recipe = folder.write("tiny.yaml", R"(
model:
  config: {model_type: mixtral, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 32,
           rms_norm_eps: 1e-5, rope_theta: 10000.0}
tokenizer: {kind: bytes}
data: {files: text.txt}
training: {sequence: 32, batch: 8, steps: 60, learning_rate: 1e-2, dropout: 0.1}
checkpoint: {every: 7}
variants:
  long: {training: {steps: 1000000}}
  zipped: {training: {steps: 1}, data: {format: zip}}
)");
  }
  test::Outcome train(const std::string& run, std::vector<std::string> more = {},
                      const test::Surroundings& with = {}) const {
    std::vector<std::string> arguments = {"train", recipe, "-o", (folder / run).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return test::coterie(arguments, with);
  }
  std::string bytes(const std::string& run, const char* file) const {
    return base::read_text(folder / run / "checkpoints" / "step-0000060" / file);
  }
  // Folders that are no whole checkpoint.
  int64_t halves(const std::string& run) const {
    int64_t found = 0;
    if (!fs::exists(folder / run / "checkpoints")) return 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / run / "checkpoints"))
      found += entry.path().extension() == ".part" || !fs::exists(entry.path() / "state.json");
    return found;
  }
  TempFolder folder;
  std::string recipe;
};

TEST_F(TrainCommand, KilledAtAnyMomentItResumesToTheSameBits) {
  const test::Outcome whole = train("whole");
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_NE(whole.out.find("active for a token"), std::string::npos);
  EXPECT_NE(whole.out.find("step     60 · train "), std::string::npos) << whole.out;
  int killed = 0;
  for (const int after : {5, 60, 25, 110, 45, 160, 80, 35, 220, 130, 15, 300}) {
    const test::Outcome outcome = train("parts", {"--resume"}, {.kill_after_ms = after});
    if (outcome.code == 0) break;
    ASSERT_EQ(outcome.code, 128 + 9) << outcome.err;
    ++killed;
  }
  const test::Outcome last = train("parts", {"--resume"});
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_GE(killed, 2) << "the machine is too fast for this test";
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(bytes("whole", file) == bytes("parts", file)) << file;
  EXPECT_EQ(halves("parts"), 0);
}

TEST_F(TrainCommand, CtrlCWritesACheckpointAndSaysHowToGoOn) {
  const test::Outcome stopped = train("run", {"--variant", "long"}, {.interrupt = true});
  EXPECT_EQ(stopped.code, 130);
  EXPECT_NE(stopped.err.find("go on with coterie train --resume"), std::string::npos) << stopped.err;
  EXPECT_EQ(halves("run/long"), 0);
}

// What a scheduler sends at the end of a job's time; the code is that of the signal.
TEST_F(TrainCommand, SigtermDoesWhatCtrlCDoes) {
  test::TerminalSession session({"train", recipe, "-o", (folder / "term").string(), "--variant", "long"},
                                folder.path());
  session.wait_for("validation");
  session.signal(SIGTERM);
  session.wait_for("go on with coterie train --resume");
  EXPECT_EQ(session.wait(), 128 + SIGTERM);
  EXPECT_EQ(halves("term/long"), 0);
}

TEST_F(TrainCommand, AFullDiskStopsItAndTheLastCheckpointStays) {
  // The optimiser's moments need more than the model, 100 kB more.
  ASSERT_EQ(train("run", {"--set", "training.steps=7"}).code, 0);
  const fs::path model = folder / "run" / "checkpoints" / "step-0000007" / "model.safetensors";
  const auto size = static_cast<int64_t>(fs::file_size(model));
  const test::Outcome full = train("small", {}, {.largest_file = size + 1000});
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_NE(full.err.find("optimizer.safetensors"), std::string::npos) << full.err;
  EXPECT_EQ(halves("small"), 0);
  EXPECT_TRUE(fs::is_empty(folder / "small" / "checkpoints"));
  // With room again it goes on.
  EXPECT_EQ(train("small", {"--resume"}).code, 0);
}

TEST_F(TrainCommand, ARunGoesOnByItsFolderAlone) {
  const std::string run = (folder / "run").string();
  ASSERT_EQ(train("run", {"--set", "training.steps=7"}).code, 0);
  const test::Outcome done = test::coterie({"train", "--resume", run});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.err.find("already finished at step 7"), std::string::npos) << done.err;
  const test::Outcome longer = test::coterie({"train", "--resume", run, "--extend", "steps=9"});
  EXPECT_EQ(longer.code, 0) << longer.err;
  EXPECT_NE(longer.err.find("training.steps was 7 and is 9 from step 7 on"), std::string::npos) << longer.err;
  EXPECT_TRUE(fs::exists(folder / "run" / "checkpoints" / "step-0000009"));
  // With the recipe, which says 60, beside it the values are named, and the way to go on.
  const test::Outcome other = train("run", {"--resume"});
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("training.steps is 9 there and 60 here"), std::string::npos) << other.err;
  EXPECT_NE(other.err.find("coterie train --resume " + run), std::string::npos) << other.err;
  EXPECT_EQ(
      test::coterie({"train", "--resume", recipe, "-o", (folder / "new").string(), "--set", "training.steps=1"}).code,
      0)
      << "a recipe behind --resume is the recipe";
  const auto refused = [](std::vector<std::string> arguments, const std::string& word) {
    const test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  };
  refused({"train"}, "RECIPE, or --resume FOLDER");
  refused({"train", "--resume", run, "--set", "training.steps=3"}, "--extend");
  refused({"train", "--resume", (folder / "none").string()}, "holds no training run");
  refused({"train", recipe, "--extend", "steps=3"}, "--resume");
  refused({"tune", "--resume", run}, "coterie train --resume");
}

// Who asks for what this CPU cannot do hears it before anything is made.
TEST_F(TrainCommand, Bf16IsRefusedAtTheStartWhereThereIsNone) {
  const test::Outcome outcome =
      train("run", {"--set", "training.precision=bf16"}, {.variables = {{"COTERIE_ISA", "scalar"}}});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("training.precision is bf16"), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(folder / "run"));
}

TEST_F(TrainCommand, AReportReplacesReportsAlone) {
  ASSERT_EQ(train("run", {"--set", "training.steps=1"}).code, 0);
  const std::string run = (folder / "run").string(), page = (folder / "page.html").string();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(test::coterie({"report", run, "-o", page}).code, 0);
  const std::string log = run + "/log.jsonl", before = base::read_text(log);
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--force"}}) {
    std::vector<std::string> command = {"report", run, "-o", log};
    command.insert(command.end(), more.begin(), more.end());
    EXPECT_EQ(test::coterie(command).code, 2);
    EXPECT_EQ(base::read_text(log), before);
  }
  const std::string other = folder.write("other.json", "{}").string();
  EXPECT_EQ(test::coterie({"report", run, "-o", other}).code, 2);
  EXPECT_EQ(test::coterie({"report", run, "-o", other, "--force"}).code, 0);
}

TEST_F(TrainCommand, WhatIsWrongIsSaid) {
  EXPECT_NE(train("a", {"--set", "training.setps=3"}).err.find("did you mean \"steps\"?"), std::string::npos);
  EXPECT_NE(train("b", {"--variant", "short"}).err.find("has no variant \"short\", it has long, zipped"),
            std::string::npos);
  // Before the first of them begins, which would take for ever.
  EXPECT_NE(train("all", {"--all"}).err.find("expected one of text, jsonl, tokens"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder / "all"));
  ASSERT_EQ(train("c", {"--set", "training.steps=1", "--json"}).code, 0);
  const test::Outcome again = train("c", {"--set", "training.steps=1"});
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("--resume goes on with it"), std::string::npos);
}

TEST_F(TrainCommand, RoutingThatLooksAheadIsWarnedAbout) {
  const test::Outcome outcome =
      train("run",
            {"--set", "training.steps=1", "--set",
             "model.config={model_type: coterie, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
             "ffn: moe, intermediate_size: 24, max_position_embeddings: 32, router: {experts: 4, experts_per_token: 1, "
             "selection: expert_choice}}"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("is not causal"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace coterie::cli
