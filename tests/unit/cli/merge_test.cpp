// coterie upcycle and coterie merge as a user meets them.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"

namespace coterie::cli {
namespace {

namespace fs = std::filesystem;

struct MergeCommands : testing::Test {
  // Two dense models with a tokenizer of bytes, trained for a step.
  static void SetUpTestSuite() {
    made = new TempFolder;
    const std::string recipe = made->write("tiny.yaml", R"(
model:
  config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 32, rms_norm_eps: 1e-5, rope_theta: 10000.0,
           tie_word_embeddings: true}
tokenizer: {kind: bytes}
data: {files: text.txt}
training: {sequence: 16, batch: 2, steps: 1, learning_rate: 1e-2}
variants:
  a: {seed: 1}
  b: {seed: 2}
)");
    std::string text;
    for (int i = 0; i < 400; ++i) text += "the sea, the land. ";
    made->write("text.txt", text);
    const test::Outcome trained = test::coterie({"train", recipe, "--all", "-o", (*made / "runs").string()},
                                                {.variables = {{"XDG_CACHE_HOME", made->path().string()}}});
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  static void TearDownTestSuite() { delete made; }

  static std::string model(const std::string& name) {
    return (*made / "runs" / name / "checkpoints" / "step-0000001").string();
  }
  test::Outcome upcycle(std::vector<std::string> more, const test::Surroundings& with = {}) {
    std::vector<std::string> arguments = {"upcycle", model("a"), "-o", out(), "--experts", "4", "--top-k", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return test::coterie(arguments, with);
  }
  test::Outcome merge(const std::string& recipe, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"merge", folder.write("recipe.yaml", recipe), "-o", out()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return test::coterie(arguments);
  }
  std::string out() const { return (folder / "out").string(); }
  void expect_refused(const test::Outcome& outcome, const std::string& word) {
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
    EXPECT_TRUE(outcome.out.empty());
    EXPECT_FALSE(fs::exists(out()));
  }

  static inline TempFolder* made = nullptr;
  TempFolder folder;
};

TEST_F(MergeCommands, UpcycleWritesAModelThatRuns) {
  const test::Outcome done = upcycle({});
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("mixtral"), std::string::npos) << done.out;
  EXPECT_NE(done.out.find("step 0"), std::string::npos) << done.out;
  const test::Outcome inspected = test::coterie({"inspect", out(), "--json"});
  EXPECT_EQ(inspected.code, 0) << inspected.err;
  const test::Outcome ran = test::coterie({"run", out(), "-p", "the", "-n", "4", "--greedy"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, test::coterie({"run", model("a"), "-p", "the", "-n", "4", "--greedy"}).out);
}

TEST_F(MergeCommands, TheReceiptIsPrintedAndKept) {
  const test::Outcome done = upcycle({"--json", "--router-std", "0.1", "--seed", "3"});
  ASSERT_EQ(done.code, 0) << done.err;
  const base::Json printed = base::parse_json(done.out, "printed");
  EXPECT_EQ(printed, base::read_json(folder / "out" / "receipt.json"));
  EXPECT_EQ(printed["model_type"], "mixtral");
  EXPECT_EQ(printed["seed"], 3);
  EXPECT_LE(printed["step_0"]["relative_difference"].get<double>(), 1e-5);
  const base::Json account = base::parse_json(test::coterie({"inspect", out(), "--json"}).out, "inspect");
  EXPECT_EQ(printed["parameters"], account["total_parameters"]);
}

TEST_F(MergeCommands, UpcycleRefusesWhatItCannotDo) {
  expect_refused(upcycle({"--layers", "0"}), "kind of FFN");
  expect_refused(upcycle({"--layers", "0-5"}), "layers 0 to 1");
  expect_refused(upcycle({"--layers", "some"}), "\"some\"");
  expect_refused(upcycle({"--router", "renormalise"}), "KEY=VALUE");
  expect_refused(upcycle({"--router", "renormalize=false"}), "renormalise");
  expect_refused(upcycle({"--shared", "idle:x"}), "idle:F");
  expect_refused(upcycle({"--shared", "all"}), "copy");
  expect_refused(upcycle({"--as", "qwen5"}), "qwen5");
  expect_refused(upcycle({"--dtype", "q4_k"}), "bf16");
  expect_refused(upcycle({"--shard-size", "0"}), "--shard-size");
  expect_refused(upcycle({"--scaling", "cube"}), "cube");
  expect_refused(upcycle({"--top-k", "5"}), "--top-k");
  expect_refused(test::coterie({"upcycle", model("a"), "-o", out(), "--top-k", "2"}), "--experts");
  expect_refused(test::coterie({"upcycle", (folder / "none").string(), "-o", out(), "--experts", "4", "--top-k", "2"}),
                 "none");
  folder.write("out/file", "of somebody");
  EXPECT_EQ(upcycle({}).code, 2);
  EXPECT_EQ(base::read_text(folder / "out" / "file"), "of somebody");
}

TEST_F(MergeCommands, AFullDiskLeavesNothing) {
  const test::Outcome full = upcycle({}, {.largest_file = 60000});
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST_F(MergeCommands, MergeMakesAMixtureOrAModel) {
  const std::string experts = "base_model: " + model("a") + "\nexperts:\n  - source_model: " + model("a") +
                              "\n    positive_prompts: [the sea]\n  - source_model: " + model("b") +
                              "\n    positive_prompts: [the land]\n";
  const test::Outcome mixture = merge(experts);
  ASSERT_EQ(mixture.code, 0) << mixture.err;
  EXPECT_NE(mixture.out.find("prompts of expert 1: choices"), std::string::npos) << mixture.out;
  EXPECT_EQ(test::coterie({"run", out(), "-p", "the", "-n", "4"}).code, 0);
  fs::remove_all(out());
  const std::string slerp = "merge_method: slerp\nbase_model: " + model("a") + "\nmodels: [{model: " + model("a") +
                            "}, {model: " + model("b") + "}]\nparameters: {t: 0.5}\n";
  const test::Outcome whole = merge(slerp, {"--json"});
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_EQ(base::parse_json(whole.out, "printed")["merge_method"], "slerp");
  EXPECT_EQ(test::coterie({"run", out(), "-p", "the", "-n", "4"}).code, 0);
}

TEST_F(MergeCommands, MergeRefusesRecipesThatAreNone) {
  expect_refused(merge("base_model: x\n"), "merge_method");
  expect_refused(merge("- a\n- b\n"), "base_model");
  expect_refused(merge("merge_methd: linear\nmodels: []\n"), "did you mean \"merge_method\"");
  expect_refused(merge("base_modle: x\nexperts: []\n"), "did you mean \"base_model\"");
  expect_refused(merge("base_model: x\nexperts: [{source: x}]\n"), "\"source\" is not known");
  expect_refused(merge("merge_method: linear\nmodels: [{modl: x}]\n"), "did you mean \"model\"");
  const auto two = [](const std::string& method, const std::string& parameters) {
    return "merge_method: " + method + "\nbase_model: a\nmodels: [{model: b, parameters: {" + parameters + "}}]\n";
  };
  expect_refused(merge(two("ties", "weight: 0.5, densitty: 0.5")), "did you mean \"density\"");
  expect_refused(merge(two("slerp", "t: 5")), "t: is 5, expected 0 to 1");
  expect_refused(merge(two("ties", "weight: .nan")), "is NaN, expected a finite number");
  expect_refused(merge("base_model: [\n"), "recipe.yaml");
  expect_refused(merge("merge_method: linear\nmodels: [{model: nowhere, parameters: {weight: 1}}]\n"), "nowhere");
  expect_refused(test::coterie({"merge", (folder / "none.yaml").string(), "-o", out()}), "none.yaml");
}

TEST_F(MergeCommands, APlanNeedsNoWeights) {
  folder.write("config.json", base::read_text(fs::path(model("a")) / "config.json"));
  const std::string experts =
      "base_model: config.json\ngate_mode: random\nexperts: [{source_model: config.json}, "
      "{source_model: config.json}]\n";
  const std::string path = folder.write("recipe.yaml", experts);
  const test::Outcome planned = test::coterie({"merge", path, "--plan", "--json"});
  ASSERT_EQ(planned.code, 0) << planned.err;
  const base::Json plan = base::parse_json(planned.out, "plan");
  // Two FFNs of 3 × 32 × 64 in each of two layers in place of one, and two rows of a router.
  EXPECT_EQ(plan["parameters"].get<int64_t>() - plan["base_model_parameters"].get<int64_t>(),
            2 * (3 * 32 * 64 + 2 * 32));
  expect_refused(test::coterie({"merge", path}), "--output");
  expect_refused(merge("merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n", {"--plan"}), "--plan");
}

TEST_F(MergeCommands, HelpHasExamples) {
  for (const std::string command : {"upcycle", "merge"}) {
    const test::Outcome help = test::coterie({command, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("coterie " + command + " "), std::string::npos);
  }
}

}  // namespace
}  // namespace coterie::cli
