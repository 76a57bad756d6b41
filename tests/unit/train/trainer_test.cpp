#include "train/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/tensor_source.h"
#include "families/open.h"
#include "kernels/table.h"
#include "support/temp_folder.h"
#include "train/run_folder.h"

namespace coterie::train {
namespace {

namespace fs = std::filesystem;

// A Mixtral small enough that a step takes a millisecond; dropout, so that what is drawn must come back after a resume.
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

constexpr const char* kJamba = R"(
model:
  config: {model_type: jamba, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, num_experts: 4, num_experts_per_tok: 2, expert_layer_period: 2,
           expert_layer_offset: 1, attn_layer_period: 2, attn_layer_offset: 1, mamba_d_state: 4, mamba_d_conv: 4,
           mamba_expand: 2, mamba_dt_rank: 2, max_position_embeddings: 16, rms_norm_eps: 1e-6}
tokenizer: {kind: bytes}
data: {files: text.txt, validation: 0.2}
training: {sequence: 8, batch: 4, micro_batch: 2, steps: 12, learning_rate: 1e-2, clip: 1, dropout: 0.1}
evaluation: {every: 6}
checkpoint: {every: 5}
)";

struct Training : testing::Test {
  Training() { write("text.txt", text(600)); }

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

  // Trains in `run` until the end or, with `stop_after` > 0, until that step. Whether it was finished.
  bool train(const std::string& recipe, const std::string& run, bool resume = false, int64_t stop_after = 0,
             int threads = 2) const {
    write("tiny.yaml", recipe);
    threads::Pool pool(threads);
    std::atomic<bool> stop = false;
    TrainerListener listener;
    listener.event = [&](const base::Json& event) {
      if (event["kind"] == "step" && event["step"] == stop_after) stop = true;
    };
    Trainer trainer(read_recipe(folder / "tiny.yaml"), {folder / run, resume, 0}, pool, kernels::select(), listener);
    return trainer.run(stop);
  }
  // A law about bits: compares files, not numbers.
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
      return error.message() + (error.hint().empty() ? "" : " | " + error.hint());
    }
    return "no error";
  }
  TempFolder folder;
};

TEST_F(Training, TheLossFallsAndTheLogSaysSo) {
  ASSERT_TRUE(train(changed(changed(kMixtral, "steps: 12", "steps: 60"), "dropout: 0.1", "dropout: 0"), "run"));
  const auto steps = events("run", "step"), evaluations = events("run", "evaluation");
  ASSERT_EQ(steps.size(), 60u);
  EXPECT_NEAR(steps.front()["loss"].get<double>(), std::log(256), 0.2);
  EXPECT_LT(steps.back()["loss"].get<double>(), 3.6);
  EXPECT_EQ(steps.back()["tokens"], 60 * 32);
  ASSERT_EQ(evaluations.size(), 11u);
  EXPECT_EQ(evaluations.front()["step"], 0);
  EXPECT_LT(evaluations.back()["validation"].get<double>(), 3.8);
  // A byte is a token.
  EXPECT_NEAR(evaluations.back()["bits_per_byte"].get<double>(),
              evaluations.back()["validation"].get<double>() / std::log(2.0), 1e-9);
  const auto routers = events("run", "routers");
  ASSERT_FALSE(routers.empty());
  ASSERT_EQ(routers.back()["load"].size(), 2u);
  double sum = 0;
  for (const double load : routers.back()["load"][0]) sum += load;
  EXPECT_NEAR(sum, 4, 1e-9);
  EXPECT_GT(routers.back()["gradient_norm"][1].get<double>(), 0);
  EXPECT_EQ(events("run", "end").size(), 1u);
}

TEST_F(Training, ResumedIsUninterruptedToTheBit) {
  for (const std::string recipe : {kMixtral, kJamba}) {
    const std::string one = recipe == kMixtral ? "one" : "jamba-one", two = recipe == kMixtral ? "two" : "jamba-two";
    ASSERT_TRUE(train(recipe, one));
    ASSERT_FALSE(train(recipe, two, false, 3));
    ASSERT_FALSE(train(recipe, two, true, 8));
    ASSERT_TRUE(train(recipe, two, true));
    for (const std::string file : {"model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"})
      EXPECT_TRUE(bytes(one, file) == bytes(two, file)) << file;
    EXPECT_EQ(events(one, "evaluation").back()["validation"], events(two, "evaluation").back()["validation"]);
  }
}

// Killed between checkpoints: what came after the newest is done again, to the same bits.
TEST_F(Training, WhatWasKilledLosesNoMoreThanTheStepsSinceTheCheckpoint) {
  ASSERT_TRUE(train(kMixtral, "one"));
  ASSERT_FALSE(train(kMixtral, "two", false, 8));
  fs::remove_all(folder / "two" / "checkpoints" / "step-0000008");
  std::ofstream(folder / "two" / "log.jsonl", std::ios::app) << "{\"kind\":\"st";
  fs::create_directories(folder / "two" / "checkpoints" / "step-0000007.part");
  ASSERT_TRUE(train(kMixtral, "two", true));
  EXPECT_TRUE(bytes("one", "model.safetensors") == bytes("two", "model.safetensors"));
  EXPECT_EQ(events("two", "resume").back()["step"], 5);
  EXPECT_FALSE(fs::exists(folder / "two" / "checkpoints" / "step-0000007.part"));
}

TEST_F(Training, KilledBeforeItsFirstCheckpointItBeginsItsLogAnew) {
  ASSERT_FALSE(train(kMixtral, "run", false, 3));
  fs::remove_all(folder / "run" / "checkpoints");
  ASSERT_TRUE(train(kMixtral, "run", true));
  EXPECT_EQ(events("run", "start").size(), 1u);
  EXPECT_EQ(events("run", "step").size(), 12u);
  EXPECT_EQ(events("run", "evaluation").size(), 3u);
}

TEST_F(Training, StoppedInItsLastEvaluationItMakesUpForItAndEndsOnce) {
  ASSERT_FALSE(train(kMixtral, "run", false, 12));
  EXPECT_EQ(events("run", "evaluation").size(), 2u);
  EXPECT_TRUE(events("run", "end").empty());
  for (int again = 0; again < 2; ++again) {
    ASSERT_TRUE(train(kMixtral, "run", true));
    ASSERT_EQ(events("run", "evaluation").size(), 3u);
    EXPECT_EQ(events("run", "evaluation").back()["step"], 12);
    EXPECT_EQ(events("run", "end").size(), 1u);
  }
}

TEST_F(Training, StoppedInAnEvaluationOnItsWayItMakesUpForIt) {
  ASSERT_FALSE(train(kMixtral, "run", false, 6));
  EXPECT_EQ(events("run", "evaluation").back()["step"], 0);
  ASSERT_TRUE(train(kMixtral, "run", true));
  ASSERT_TRUE(train(kMixtral, "whole"));
  for (const size_t at : {1, 2})
    EXPECT_EQ(events("run", "evaluation").at(at)["validation"], events("whole", "evaluation").at(at)["validation"]);
  EXPECT_EQ(events("run", "evaluation").size(), 3u);
  // Taken up again where the evaluation had been made, none is made twice.
  ASSERT_FALSE(train(kMixtral, "seven", false, 7));
  ASSERT_TRUE(train(kMixtral, "seven", true));
  EXPECT_EQ(events("seven", "evaluation").size(), 3u);
}

TEST_F(Training, ThreadsChangeNoBit) {
  ASSERT_TRUE(train(kMixtral, "one", false, 0, 1));
  ASSERT_TRUE(train(kMixtral, "three", false, 0, 3));
  EXPECT_TRUE(bytes("one", "model.safetensors") == bytes("three", "model.safetensors"));
}

// 1e-5 of the largest weight: sums are in another order.
TEST_F(Training, MicroBatchesAreOneBatch) {
  for (const std::string scope : {"batch", "sequence"}) {
    const std::string recipe = changed(kMixtral, "z_loss: 0.001", "z_loss: 0.001, scope: " + scope);
    ASSERT_TRUE(train(changed(recipe, "steps: 12", "steps: 1"), "parts-" + scope));
    ASSERT_TRUE(
        train(changed(changed(recipe, "micro_batch: 2", "micro_batch: 4"), "steps: 12", "steps: 1"), "whole-" + scope));
    EXPECT_NEAR(events("parts-" + scope, "step")[0]["loss"].get<double>(),
                events("whole-" + scope, "step")[0]["loss"].get<double>(), 1e-6);
    const double norm = events("whole-" + scope, "step")[0]["gradient_norm"];
    EXPECT_NEAR(events("parts-" + scope, "step")[0]["gradient_norm"].get<double>(), norm, 1e-5 * norm);
  }
}

// Of the windows that are looked at: here each of their characters has two bytes, and all others have one.
TEST_F(Training, BitsPerByteAreOfTheTextThatWasLookedAt) {
  std::string held_out;
  for (int i = 0; i < 60; ++i) held_out += i < 33 ? "é" : "e";
  write("held.txt", held_out);
  std::string recipe =
      changed(changed(kMixtral, "kind: bytes", "kind: characters"), "validation: 0.2", "validation_files: held.txt");
  write("text.txt", text(600) + "ée");
  ASSERT_TRUE(train(changed(recipe, "{every: 6}", "{every: 12, batches: 1}"), "part"));
  ASSERT_TRUE(train(recipe, "all"));
  const auto bytes_of_a_token = [&](const std::string& run) {
    const base::Json last = events(run, "evaluation").back();
    return last["validation"].get<double>() / std::log(2.0) / last["bits_per_byte"].get<double>();
  };
  EXPECT_NEAR(bytes_of_a_token("part"), 2, 1e-9);                    // tokens 1 to 32
  EXPECT_NEAR(bytes_of_a_token("all"), (32 * 2 + 24) / 56.0, 1e-9);  // 7 windows of 8, of which 32 tokens are long
}

TEST_F(Training, ACheckpointIsAModel) {
  ASSERT_TRUE(train(kMixtral, "run"));
  const families::Model model = families::open_model(folder / "run" / "checkpoints" / "step-0000012");
  EXPECT_EQ(model.name, "tiny") << "the recipe's";
  EXPECT_EQ(model.decoder->spec().family.model_type, "mixtral");
  EXPECT_EQ(model.decoder->spec().vocabulary, 256);
  ASSERT_TRUE(model.tokenizer);
  EXPECT_EQ(model.tokenizer->encode("az", false), (std::vector<text::TokenId>{97, 122}));
  EXPECT_FALSE(fs::exists(folder / "run" / "checkpoints" / "step-0000000"));
  EXPECT_TRUE(fs::exists(folder / "run" / "checkpoints" / "step-0000010"));
  EXPECT_FALSE(fs::exists(folder / "run" / "checkpoints" / "step-0000005")) << "two are kept";
}

TEST_F(Training, ARunIsNotOverwrittenAndKeepsItsRecipe) {
  ASSERT_TRUE(train(kMixtral, "run"));
  EXPECT_EQ(message_of(kMixtral, "run"),
            "already holds a training run | `resume` goes on with it; or give another folder (`run`)");
  EXPECT_EQ(
      message_of(changed(kMixtral, "1e-2", "2e-2"), "run", true),
      "holds a run of another recipe: training.learning_rate is 0.01 there and 0.02 here | coterie train `resume` " +
          (folder / "run").string() + " goes on with the run's own recipe; another folder (`run`) begins another run");
  EXPECT_NE(message_of(changed(kMixtral, "steps: 12", "steps: 20"), "run", true).find("`extend` steps=20"),
            std::string::npos);
}

// The config may be a file of its own, which may change.
TEST_F(Training, AModelThatChangedIsAnotherRecipe) {
  const std::string recipe = kMixtral;
  const size_t begin = recipe.find("{model_type"), end = recipe.find("}\ntokenizer") + 1;
  const std::string by_path = recipe.substr(0, begin) + "config.json" + recipe.substr(end);
  const auto config = [&](int width) {
    write("config.json",
          fmt::format(R"({{"model_type": "mixtral", "hidden_size": 16, "intermediate_size": {}, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4,
                          "num_experts_per_tok": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
                          "rope_theta": 10000.0}})",
                      width));
  };
  config(24);
  ASSERT_FALSE(train(by_path, "run", false, 3));
  config(28);
  EXPECT_EQ(message_of(by_path, "run", true).substr(0, 84),
            "holds a run of another recipe: model.config.intermediate_size is 24 there and 28 her");
  config(24);
  EXPECT_TRUE(train(by_path, "run", true));
}

TEST_F(Training, FilesOfTokensThatChangedAreNamed) {
  ASSERT_TRUE(train(kMixtral, "source"));
  const auto tokens = [&](const std::string& from) {
    fs::copy_file(folder / from, folder / "t.safetensors", fs::copy_options::overwrite_existing);
  };
  tokens("source/tokens.safetensors");
  const std::string recipe = changed(changed(kMixtral, "{kind: bytes}", "{folder: source/tokenizer}"),
                                     "files: text.txt", "files: t.safetensors, format: tokens");
  ASSERT_FALSE(train(recipe, "run", false, 3));
  EXPECT_TRUE(train(recipe, "run", true));
  write("text.txt", text(601));
  ASSERT_TRUE(train(kMixtral, "other"));
  tokens("other/tokens.safetensors");
  ASSERT_FALSE(train(recipe, "fresh", false, 3));
  EXPECT_EQ(message_of(recipe, "run", true).substr(0, 53), "its tokens are not those that the run began with | a ");
}

TEST_F(Training, TwoProcessesDoNotTrainIntoOneFolder) {
  fs::create_directories(folder / "run");
  {
    const RunLock lock(folder / "run");
    const std::string expected = fmt::format("another process ({}) is training into it | ", ::getpid());
    EXPECT_EQ(message_of(kMixtral, "run").substr(0, expected.size()), expected);
    EXPECT_FALSE(fs::exists(folder / "run" / "recipe.json"));
  }
  EXPECT_TRUE(train(kMixtral, "run"));
}

TEST_F(Training, NoNumbersStopTheRunAndNameThePlace) {
  const std::string wild = changed(changed(kMixtral, "1e-2", "10"), "clip: 1, ", "weight_decay: 10, ");
  const std::string message = message_of(changed(wild, "steps: 12", "steps: 400"), "run");
  EXPECT_NE(message.find("not a finite number in the "), std::string::npos) << message;
  EXPECT_EQ(message.substr(0, 5), "step ");
  // What was good is still there.
  const auto steps = events("run", "step");
  EXPECT_TRUE(std::all_of(steps.begin(), steps.end(), [](const base::Json& e) { return e["loss"].is_number(); }));
}

// With room for one expert's share and overflow to the next best every load is even; the bias moves by who was chosen.
TEST_F(Training, BiasesMoveByWhoWasChosenNotByWhoHadRoom) {
  const std::string recipe = R"(
model:
  config: {model_type: coterie, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, ffn: moe,
           intermediate_size: 24, max_position_embeddings: 16,
           router: {experts: 4, experts_per_token: 1, selection_bias: true, capacity: {factor: 1.0, next_best: true}}}
tokenizer: {kind: bytes}
data: {files: text.txt}
training: {sequence: 8, batch: 4, steps: 5, learning_rate: 1e-3}
balance: {bias_rate: 0.01}
)";
  ASSERT_TRUE(train(recipe, "run"));
  EXPECT_EQ(events("run", "routers").back()["max_load"][0], 1);
  const auto source =
      checkpoint::open_safetensors(folder / "run" / "checkpoints" / "step-0000005" / "model.safetensors");
  const auto* bias = source->find("blocks.0.moe.router.selection_bias");
  ASSERT_NE(bias, nullptr);
  const auto* values = reinterpret_cast<const float*>(bias->bytes.data());
  EXPECT_GT(*std::max_element(values, values + 4), 0.001f);
  EXPECT_NEAR(values[0] + values[1] + values[2] + values[3], 0, 1e-6);
}

constexpr const char* kSoft = R"(
model:
  config: {model_type: coterie, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, ffn: [dense, moe],
           intermediate_size: 24, max_position_embeddings: 16, attention_dropout: 0.1, initializer_range: 0.5,
           router: {experts: 4, experts_per_token: 4, selection: soft, slots: 2}}
tokenizer: {kind: bytes}
data: {files: text.txt}
training: {sequence: 8, batch: 4, micro_batch: 2, steps: 5, learning_rate: 1e-3}
)";

TEST_F(Training, MixturesHaveFiguresOfTheirOwn) {
  ASSERT_TRUE(train(kSoft, "run"));
  const base::Json routers = events("run", "routers").back();
  ASSERT_EQ(routers["load"].size(), 1u);
  double sum = 0;
  for (const double load : routers["load"][0]) sum += load;
  EXPECT_NEAR(sum, 4, 1e-9);
  for (const char* key : {"entropy", "reading", "gradient_norm"}) {
    EXPECT_GT(routers[key].at(0).get<double>(), 0) << key;
    EXPECT_LE(routers[key].at(0).get<double>(), 1) << key;
  }
  // An expert works on 2 slots of a sequence of 8; looking an embedding up is no work.
  const base::Json start = events("run", "start").back();
  const auto active = [&](const char* place) { return start["places"][place].at(1).get<double>(); };
  EXPECT_NEAR(start["flops_per_token"].get<double>(),
              6 * (start["active_parameters"].get<double>() - active("input_embeddings") - 0.75 * active("experts")),
              1e-6);
  for (const char* key : {"dead", "dropped", "overflow", "balance_loss", "z_loss"})
    EXPECT_FALSE(routers.contains(key)) << key;
}

TEST_F(Training, WhatASoftRouterCannotHaveIsRefused) {
  const std::string soft = kSoft;
  EXPECT_NE(message_of(soft + "balance: {z_loss: 0.001}\n", "a").find("no logits of experts that a z-loss"),
            std::string::npos);
  EXPECT_NE(message_of(soft + "balance: {loss: 0.01}\n", "b").find("a balance loss has no effect"), std::string::npos);
  EXPECT_NE(message_of(changed(soft, "1e-3", "1e-3, expert_dropout: 0.1"), "c").find("(Soft MoE) have none"),
            std::string::npos);
}

// Weights of 1 whatever the logits: no figure of a balance loss makes the router learn who is good at what.
TEST_F(Training, ARouterWithoutAGradientIsRefusedWithOrWithoutABalanceLoss) {
  const std::string one = changed(kMixtral, "num_experts_per_tok: 2", "num_experts_per_tok: 1");
  const std::string reason = "a weight divided by its own sum is 1 whatever the logits";
  EXPECT_NE(message_of(one, "a").find(reason), std::string::npos);
  EXPECT_NE(message_of(changed(one, "balance: {loss: 0.01, z_loss: 0.001}\n", ""), "b").find(reason),
            std::string::npos);
}

TEST_F(Training, KeysOfTheConfigThatTrainingDoesNotGoByAreWarnedOf) {
  const auto warnings = [&](const std::string& recipe, const std::string& run) {
    write("tiny.yaml", recipe);
    threads::Pool pool(1);
    return Trainer(read_recipe(folder / "tiny.yaml"), {folder / run, false, 0}, pool, kernels::select()).warnings();
  };
  const std::vector<std::string> soft = warnings(kSoft, "soft");
  const auto warned = [&soft](const std::string& beginning) {
    return std::count_if(soft.begin(), soft.end(),
                         [&](const std::string& said) { return said.starts_with(beginning); });
  };
  EXPECT_EQ(warned("routing by soft is not causal"), 1);
  EXPECT_EQ(warned("attention_dropout is 0.1 in the model's config and has no effect on training here"), 1);
  EXPECT_EQ(warned("initializer_range is 0.5"), 1);
  EXPECT_TRUE(warnings(kMixtral, "none").empty());
  const std::vector<std::string> loss =
      warnings(changed(kMixtral, "rms_norm_eps", "router_aux_loss_coef: 0.02, rms_norm_eps"), "loss");
  ASSERT_EQ(loss.size(), 1u);
  EXPECT_NE(loss[0].find("balance: loss of the recipe"), std::string::npos);
}

TEST_F(Training, AStartThatFailsLeavesNoRunBehind) {
  EXPECT_NE(message_of(changed(kMixtral, "sequence: 8", "sequence: 17"), "run").find("16 positions"),
            std::string::npos);
  ASSERT_TRUE(train(kMixtral, "run"));
  EXPECT_NE(message_of(changed(kMixtral, "validation: 0.2", "validation: 0.2, validation_files: text.txt"), "both")
                .find("validation_files are given"),
            std::string::npos);
}

TEST_F(Training, DataThatCannotServeIsRefused) {
  write("text.txt", "");
  EXPECT_EQ(message_of(kMixtral, "empty"), "the file is empty");
  write("text.txt", "abc");
  EXPECT_NE(message_of(kMixtral, "short").find("expected at least 9: a sequence of 8"), std::string::npos);
  fs::remove(folder / "text.txt");
  EXPECT_NE(message_of(kMixtral, "absent"), "no error");
  write("text.txt", text(600));
  EXPECT_NE(message_of(changed(kMixtral, "sequence: 8", "sequence: 17"), "long").find("a model of 16 positions"),
            std::string::npos);
  EXPECT_NE(message_of(changed(kMixtral, "rope_theta: 10000.0", "rope_theta: 10000.0, vocab_size: 255"), "vocabulary")
                .find("vocab_size is 255"),
            std::string::npos);
}

}  // namespace
}  // namespace coterie::train
