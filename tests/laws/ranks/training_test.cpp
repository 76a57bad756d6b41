#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/atomic_file.h"
#include "base/error.h"
#include "comm/delayed.h"
#include "comm/threads.h"
#include "kernels/table.h"
#include "support/temp_folder.h"
#include "train/ranks/team.h"
#include "train/trainer.h"

// Training over ranks: for the same virtual shards n ranks write the checkpoints of one, to the byte, whatever the
// routers, mixers and losses, and go on from those of another number of ranks.
namespace coterie::train {
namespace {

namespace fs = std::filesystem;
using base::Json;

constexpr int64_t kSteps = 3;

/// What the recipe of a case has besides what all have.
struct Case {
  std::string name;
  std::string config;         // keys of model.config
  std::string training = {};  // of training
  std::string more = {};      // other sections
};

std::string own(const std::string& keys, const std::string& router) {
  return "model_type: coterie, hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, ffn: moe, "
         "intermediate_size: 24, moe_intermediate_size: 12, max_position_embeddings: 16, " +
         keys + ", router: {" + router + "}";
}

std::string two_layers(const std::string& router) { return own("num_hidden_layers: 2", router); }

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {
      {"mixtral",
       "model_type: mixtral, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2, "
       "num_key_value_heads: 1, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 16, "
       "rms_norm_eps: 1e-5, rope_theta: 10000.0",
       "clip: 0.5, dropout: 0.1, micro_batch: 1", "balance: {loss: 0.01, z_loss: 0.001}"},
      // Experts that no number of ranks divides, a shared expert, and a bias that evens the loads.
      {"uneven_with_shared",
       own("num_hidden_layers: 2, shared_expert_intermediate_size: 8, shared_expert_gate: true",
           "experts: 5, experts_per_token: 2, score: sigmoid, renormalise: true, selection_bias: true"),
       "clip: 0.1, expert_dropout: 0.2", "balance: {bias_rate: 0.001}"},
      // Of four ranks one has no expert.
      {"few", two_layers("experts: 3, experts_per_token: 1"), "recompute: true",
       "balance: {loss: 0.01, scope: sequence}"},
      {"capacity", two_layers("experts: 4, experts_per_token: 2, capacity: {factor: 1.0}"), "micro_batch: 2",
       "balance: {loss: 0.01, scope: micro_batch, kind: gshard}"},
      {"noise_and_biases",
       own("num_hidden_layers: 2, hidden_act: relu, gated: false, ffn_bias: true",
           "experts: 4, experts_per_token: 2, order: select_then_score, noise: true"),
       "", "balance: {loss: 0.1, kind: importance_and_load}"},
      {"hybrid",
       own("num_hidden_layers: 4, mixer: [mamba, attention], mamba_d_state: 4", "experts: 6, experts_per_token: 2"),
       "recompute: true", "balance: {loss: 0.01}"},
      {"one_takes_all", two_layers("experts: 4, experts_per_token: 1, selection: hash"), ""},
      {"expert_choice", two_layers("experts: 4, experts_per_token: 2, selection: expert_choice"), ""},
      {"soft", two_layers("experts: 4, experts_per_token: 4, selection: soft, slots: 2"), ""},
      {"dense",
       "model_type: coterie, hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1, intermediate_size: 24, "
       "max_position_embeddings: 16",
       "clip: 1"},
  };
  return kCases;
}

struct How {
  bool resume = false;
  int64_t stop_after = 0;  // a step after which a rank is told to stop
  comm::Wire wire = {};
  fs::path tuned = {};
};

class RanksTraining : public testing::Test {
 protected:
  RanksTraining() {
    std::string text;
    for (int i = 0; i < 600; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 23);
    folder.write("text.txt", text);
  }

  fs::path write(const Case& c) const {
    folder.write(c.name + ".yaml",
                 fmt::format("model: {{config: {{{}}}}}\ntokenizer: {{kind: bytes}}\n"
                             "data: {{files: text.txt, validation: 0.2}}\n"
                             "training: {{sequence: 8, batch: 8, shards: 4, steps: {}, learning_rate: 1e-2{}{}}}\n"
                             "evaluation: {{every: 2, batches: 3}}\ncheckpoint: {{every: 1, keep: 9}}\n{}\n",
                             c.config, kSteps, c.training.empty() ? "" : ", ", c.training, c.more));
    return folder / (c.name + ".yaml");
  }

  /// Trains by a thread for each rank. The message of an error that rank 0 has, or of another where it has none.
  std::string train(const fs::path& recipe, const std::string& run, int size, const How& how = {}) const {
    std::vector<std::string> errors(static_cast<size_t>(size));
    {
      std::vector<std::jthread> threads;
      int next = 0;
      for (auto& communicator : comm::ranks_of_one_process(size))
        threads.emplace_back([&, rank = next++, one = std::move(communicator)]() mutable {
          try {
            if (how.wire.latency > 0) one = comm::delayed(std::move(one), how.wire);
            comm::Ranks ranks(std::move(one), {30, 60, {}});
            std::optional<Team> team;
            if (size > 1) team.emplace(ranks);
            threads::Pool pool(1);
            std::atomic<bool> stop = false;
            TrainerListener listener;
            listener.event = [&](const Json& event) {
              if (event["kind"] == "step" && event["step"] == how.stop_after) stop = true;
            };
            Trainer trainer(read_recipe(recipe, {"", {}, how.tuned}),
                            {folder / run, how.resume, 0, {}, team ? &*team : nullptr}, pool, kernels::select(),
                            listener);
            trainer.run(stop);
          } catch (const base::Error& error) {
            errors[static_cast<size_t>(rank)] = std::string(error.what()) + " | " + error.hint();
          }
        });
    }
    for (const std::string& error : errors)
      if (!error.empty()) return error;
    return {};
  }

  std::string bytes(const std::string& run, const std::string& file, int64_t step = kSteps) const {
    return base::read_text(folder / run / "checkpoints" / fmt::format("step-{:07}", step) / file);
  }
  void expect_same(const std::string& run, const std::string& of_one, const char* model = "model.safetensors") const {
    for (const char* file : {model, "optimizer.safetensors"})
      EXPECT_TRUE(bytes(run, file) == bytes(of_one, file)) << run << ": " << file;
    EXPECT_EQ(logged(run), logged(of_one)) << run;
  }
  /// What the log says but for times and speeds.
  std::vector<Json> logged(const std::string& run) const {
    std::vector<Json> result;
    std::ifstream log(folder / run / "log.jsonl");
    for (std::string line; std::getline(log, line);) {
      Json event = Json::parse(line);
      for (const char* key : {"seconds", "tokens_per_second", "ranks", "threads"}) event.erase(key);
      if (event["kind"] != "resume") result.push_back(std::move(event));
    }
    return result;
  }

  TempFolder folder;
};

class RanksTrainingOf : public RanksTraining, public testing::WithParamInterface<size_t> {};

TEST_P(RanksTrainingOf, WeightsAfterThreeStepsAreThoseOfOneRank) {
  const Case& c = cases()[GetParam()];
  const fs::path recipe = write(c);
  ASSERT_EQ(train(recipe, "one", 1), "");
  for (const int size : {2, 4}) {
    const std::string run = fmt::format("{}-ranks", size);
    ASSERT_EQ(train(recipe, run, size), "") << c.name;
    expect_same(run, "one");
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RanksTrainingOf, testing::Range(size_t{0}, cases().size()),
                         [](const auto& of) { return cases()[of.param].name; });

TEST_F(RanksTraining, GoesOnWithAnotherNumberOfRanks) {
  const fs::path recipe = write(cases()[1]);
  ASSERT_EQ(train(recipe, "one", 1), "");
  ASSERT_EQ(train(recipe, "moved", 4, {.stop_after = 1}), "");
  EXPECT_FALSE(fs::exists(folder / "moved" / "checkpoints" / "step-0000002"));
  ASSERT_EQ(train(recipe, "moved", 1, {.resume = true, .stop_after = 2}), "");
  ASSERT_EQ(train(recipe, "moved", 2, {.resume = true}), "");
  expect_same("moved", "one");
}

// Whatever travels longest, and overtakes what.
TEST_F(RanksTraining, DoesNotDependOnWhenMessagesArrive) {
  const fs::path recipe = write(cases()[0]);
  ASSERT_EQ(train(recipe, "one", 1), "");
  ASSERT_EQ(train(recipe, "slow", 4, {.wire = {.latency = 2e-4, .rate = 1e9, .seed = 7}}), "");
  expect_same("slow", "one");
}

TEST_F(RanksTraining, OneShardIsARunWithoutShards) {
  Case c = cases()[0];
  const fs::path recipe = write(c);
  const std::string text = base::read_text(recipe);
  const auto with = [&](const std::string& shards) {
    std::string changed = text;
    changed.replace(changed.find("shards: 4, "), 11, shards);
    folder.write("changed.yaml", changed);
    return folder / "changed.yaml";
  };
  ASSERT_EQ(train(with("shards: 1, "), "said", 1), "");
  ASSERT_EQ(train(with(""), "unsaid", 1), "");
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(bytes("said", file) == bytes("unsaid", file)) << file;
}

TEST_F(RanksTraining, TunesExpertsAndAdaptersOfThem) {
  ASSERT_EQ(train(write(cases()[0]), "made", 1), "");
  const fs::path model = folder / "made" / "checkpoints" / fmt::format("step-{:07}", kSteps);
  for (const auto& [name, tune, file] :
       {std::tuple("lora", "{lora: {targets: [attention, experts, router], rank: 3, alpha: 6}}",
                   "adapter_model.safetensors"),
        std::tuple("full", "{full: [experts, norms]}", "model.safetensors")}) {
    folder.write("tune.yaml", fmt::format("tune: {}\ndata: {{files: text.txt, validation: 0.2}}\n"
                                          "training: {{sequence: 8, batch: 4, shards: 4, steps: {}, learning_rate: "
                                          "1e-2, clip: 1}}\nevaluation: {{every: 1, patience: 2}}\n",
                                          tune, kSteps));
    ASSERT_EQ(train(folder / "tune.yaml", std::string(name) + "-one", 1, {.tuned = model}), "");
    ASSERT_EQ(train(folder / "tune.yaml", std::string(name) + "-two", 2, {.tuned = model}), "");
    expect_same(std::string(name) + "-two", std::string(name) + "-one", file);
    EXPECT_TRUE(base::read_text(folder / (std::string(name) + "-two") / "best" / file) ==
                base::read_text(folder / (std::string(name) + "-one") / "best" / file));
  }
}

TEST_F(RanksTraining, RefusesRanksThatDoNotShareTheShards) {
  const std::string text = train(write(cases()[0]), "run", 3);
  EXPECT_NE(text.find("3 ranks cannot share 4 shards evenly"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(folder / "run"));
}

}  // namespace
}  // namespace coterie::train
