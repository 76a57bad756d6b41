// coterie gate, and the commands that take what it writes, as a user meets them.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/json.h"
#include "runtime/engines.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"

namespace coterie::cli {
namespace {

namespace fs = std::filesystem;

struct GateCommands : testing::Test {
  // A model that has learned one sentence and one that has learned another, in models/.
  static void SetUpTestSuite() {
    made = new TempFolder;
    std::string sea, sums;
    for (int i = 0; i < 300; ++i)
      sea += "the sea is wide and the land is far. ", sums += "1+2=3; 4+5=9; 2+2=4; 3+5=8; ";
    made->write("sea.txt", sea);
    made->write("sums.txt", sums);
    for (const std::string name : {"sea", "sums"}) {
      const std::string recipe = made->write(name + ".yaml", R"(
model:
  config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 256, rms_norm_eps: 1e-5, rope_theta: 10000.0,
           tie_word_embeddings: true}
tokenizer: {kind: bytes}
data: {files: )" + name + R"(.txt}
training: {sequence: 64, batch: 4, steps: 60, learning_rate: 1e-2}
)");
      const test::Outcome trained = test::coterie({"train", recipe, "-o", (*made / "runs" / name).string()},
                                                  {.variables = {{"XDG_CACHE_HOME", made->path().string()}}});
      ASSERT_EQ(trained.code, 0) << trained.err;
      fs::create_directories(*made / "models");
      fs::rename(*made / "runs" / name / "checkpoints" / "step-0000060", *made / "models" / name);
    }
  }
  static void TearDownTestSuite() { delete made; }

  static std::string model(const std::string& name) { return (*made / "models" / name).string(); }
  static std::string text(const std::string& name) { return (*made / (name + ".txt")).string(); }
  /// A recipe over both, with keys of the whole and of each model.
  static std::string recipe(const std::string& keys, const std::string& of_sea = "", const std::string& of_sums = "") {
    return keys + "\nmodels:\n  - {source_model: " + model("sea") + of_sea + "}\n  - {source_model: " + model("sums") +
           of_sums + "}\n";
  }
  static std::string by_texts(const std::string& keys) {
    return recipe("tokens: 2048\nwindow: 64\n" + keys, ", texts: " + text("sea"), ", texts: " + text("sums"));
  }
  static std::string by_prompts(const std::string& keys) {
    return recipe(keys, ", positive_prompts: [the sea is wide, and the land]",
                  ", positive_prompts: ['1+2=3; 4+', 5=9]");
  }
  test::Outcome gate(const std::string& recipe, std::vector<std::string> more = {}, const std::string& name = "gate") {
    std::vector<std::string> arguments = {"gate", folder.write("recipe.yaml", recipe), "-o", (folder / name).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return test::coterie(arguments);
  }
  std::string out() const { return (folder / "gate").string(); }
  void expect_refused(const test::Outcome& outcome, const std::string& word) {
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
    EXPECT_TRUE(outcome.out.empty()) << outcome.out;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder.path()))
      EXPECT_FALSE(entry.path().filename().string().starts_with("gate")) << entry.path();
  }
  static base::Json json(const std::vector<std::string>& arguments) {
    const test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? base::parse_json(outcome.out, "printed") : base::Json();
  }
  base::Json run(const std::string& prompt) {
    return json({"run", out(), "-p", prompt, "-n", "12", "--greedy", "--json", "-q"});
  }

  static inline TempFolder* made = nullptr;
  TempFolder folder;
};

TEST_F(GateCommands, APromptGateLetsOneModelAnswer) {
  const test::Outcome done = gate(by_prompts("gate: prompt"));
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("right has most weight in 100.0 %"), std::string::npos) << done.out;
  for (const auto& [prompt, name] : {std::pair("is the sea far", "sea"), {"3+5=8; 1+", "sums"}}) {
    const base::Json answer = run(prompt);
    EXPECT_EQ(answer["text"], json({"run", model(name), "-p", prompt, "-n", "12", "--greedy", "--json"})["text"]);
    double weight = 0;
    for (const base::Json& of : answer["gate"]["models"]) {
      EXPECT_EQ(of["answered"], of["model"] == name ? 1 : 0);
      if (of["model"] == name) weight = of["weight"];
    }
    EXPECT_GT(weight, 0.5) << name;
  }
  const test::Outcome said = test::coterie({"run", out(), "-p", "the land", "-n", "4", "--greedy"});
  EXPECT_NE(said.err.find("gate: sea"), std::string::npos) << said.err;
}

TEST_F(GateCommands, LiveSaysWhichModelAnsweredEachToken) {
  ASSERT_EQ(gate(by_texts("gate: token")).code, 0);
  const auto lines = [&](const std::string& prompt, const std::string& name) {
    const test::Outcome live = test::coterie({"run", out(), "-p", prompt, "-n", "8", "--greedy", "--experts=live"});
    EXPECT_EQ(live.code, 0) << live.err;
    EXPECT_NE(live.out.find("model, weight"), std::string::npos) << live.out;
    int64_t count = 0;
    for (size_t at = 0; (at = live.out.find(" " + name + " ", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  EXPECT_GE(lines("the sea is wide and the", "sea"), 7);
  EXPECT_GE(lines("1+2=3; 4+5=9; 2+2", "sums"), 7);
}

TEST_F(GateCommands, EachMessageOfAChatGoesToItsModel) {
  ASSERT_EQ(gate(by_prompts("gate: prompt")).code, 0);
  const std::string lines = folder.write("lines.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}");
  const test::Outcome chat = test::coterie({"chat", out(), "--chat-template", lines, "--greedy", "-n", "6"},
                                           {.input = "the sea is\n1+2=3;\nthe land is\n"});
  ASSERT_EQ(chat.code, 0) << chat.err;
  size_t at = 0;
  for (const std::string answered : {"gate: sea", "gate: sums", "gate: sea"}) {
    at = chat.err.find(answered, at);
    ASSERT_NE(at, std::string::npos) << chat.err;
    ++at;
  }
  // The first model still holds its first turn.
  EXPECT_NE(chat.err.find("from the cache", at), std::string::npos) << chat.err;
}

TEST_F(GateCommands, ATokenGateIsBetterThanEachModelOnATextOfBoth) {
  const test::Outcome done = gate(by_texts("gate: token"), {"--json"});
  ASSERT_EQ(done.code, 0) << done.err;
  const base::Json receipt = base::parse_json(done.out, "printed");
  EXPECT_EQ(receipt, base::read_json(folder / "gate" / "receipt.json"));
  const double gated = receipt["cross_entropy"]["gated"];
  for (const base::Json& alone : receipt["cross_entropy"]["alone"]) EXPECT_LT(gated, alone.get<double>() - 0.5);
  EXPECT_LT(gated, receipt["cross_entropy"]["uniform"].get<double>());

  const std::string both = folder.write(
      "both.txt", base::read_text(text("sea")).substr(0, 640) + base::read_text(text("sums")).substr(0, 640));
  const auto loss = [&](const std::string& path) {
    return json({"eval", path, "--text", both, "--window", "64", "--json"});
  };
  const base::Json mixed = loss(out());
  EXPECT_LT(mixed["cross_entropy"].get<double>(), loss(model("sea"))["cross_entropy"].get<double>() - 0.3);
  EXPECT_LT(mixed["cross_entropy"].get<double>(), loss(model("sums"))["cross_entropy"].get<double>() - 0.3);
  EXPECT_EQ(mixed["gate"]["tokens"].get<int64_t>(), mixed["tokens"].get<int64_t>());
  double sum = 0;
  for (const base::Json& of : mixed["gate"]["models"]) sum += of["weight"].get<double>();
  EXPECT_NEAR(sum, 1, 1e-6);
}

TEST_F(GateCommands, APromptGateIsFittedOnTextsAndScoresWindows) {
  for (const std::string learn : {"labels", "likelihood"}) {
    ASSERT_EQ(gate(by_texts("gate: prompt\nlearn: " + learn)).code, 0);
    const base::Json scored =
        json({"eval", out(), "--text", text("sums"), "--window", "64", "--tokens", "640", "--json"});
    EXPECT_EQ(scored["gate"]["models"][1]["answered"], scored["gate"]["prompts"]) << scored;
    const base::Json alone =
        json({"eval", model("sums"), "--text", text("sums"), "--window", "64", "--tokens", "640", "--json"});
    EXPECT_EQ(scored["cross_entropy"], alone["cross_entropy"]);
    fs::remove_all(out());
  }
}

TEST_F(GateCommands, APromptGateOfSeveralMixesByTheWeightsOfThePrompt) {
  ASSERT_EQ(gate(by_prompts("gate: prompt\ntop_k: 2")).code, 0);
  const base::Json answer = run("the sea is");
  EXPECT_EQ(answer["gate"]["models"][0]["answered"], 1);
  EXPECT_EQ(answer["gate"]["models"][1]["answered"], 1);
  EXPECT_EQ(answer["text"], json({"run", model("sea"), "-p", "the sea is", "-n", "12", "--greedy", "--json"})["text"]);
}

// What the system has mapped: the reader's file too, which reads the prompt with the model that answers.
TEST_F(GateCommands, APromptGateOfSeveralOpensEachModelOnce) {
  const auto weights = [&](const std::string& top_k, const std::string& name) {
    EXPECT_EQ(gate(by_prompts("gate: prompt\ntop_k: " + top_k), {}, name).code, 0);
    runtime::EngineOptions options;
    options.threads = 1;
    runtime::Engines engines(folder / name, {}, options);
    const std::string maps = base::read_text("/proc/self/maps");
    for (const std::string of : {"sea", "sums"}) {
      const std::string file = (*made / "models" / of / "model.safetensors").string();
      int times = 0;
      for (size_t at = maps.find(file); at != maps.npos; at = maps.find(file, at + 1)) ++times;
      EXPECT_EQ(times, 1) << of << " behind top_k " << top_k;
    }
    engines.choose(std::string_view("the sea is"));
    engines.choose(std::string_view("and the land is"));
    return engines.report()->weights;
  };
  // And what it reads is what the model alone does.
  EXPECT_EQ(weights("2", "gate2"), weights("1", "gate1"));
}

// A model is prompted with its own template, one that has none with the first there is, and a mixture with the first's.
TEST_F(GateCommands, OneRuleForChatTemplates) {
  const auto copied = [&](const std::string& name, const std::string& chat_template) {
    fs::copy(model(name), folder / name, fs::copy_options::recursive);
    if (!chat_template.empty()) folder.write(name + "/chat_template.jinja", chat_template);
  };
  copied("sea", "");
  copied("sums", "{% for m in messages %}{{ m.content }}!{% endfor %}");
  const std::string prompts =
      "gate: prompt\nmodels:\n"
      "  - {source_model: sea, positive_prompts: [the sea is wide, and the land]}\n"
      "  - {source_model: sums, positive_prompts: ['1+2=3; 4+', 5=9]}\n";
  const auto tokens = [&](const std::string& name, const std::string& prompt) -> int64_t {
    const std::string path = (folder / name).string();
    const base::Json ran = json({"run", path, "--chat", "-p", prompt, "-n", "2", "--greedy", "--json", "-q"});
    const test::Outcome chat = test::coterie({"chat", path, "--greedy", "-n", "2"}, {.input = prompt + "\n"});
    EXPECT_EQ(chat.code, 0) << chat.err;
    const int64_t read = ran["prompt_tokens"];
    EXPECT_NE(chat.err.find("prompt " + std::to_string(read) + " tokens"), std::string::npos) << chat.err;
    return read;
  };
  ASSERT_EQ(gate(prompts).code, 0);
  EXPECT_EQ(tokens("gate", "1+2=3;"), 6 + 1);
  EXPECT_EQ(tokens("gate", "the sea"), 7 + 1) << "it has none: the first there is";
  ASSERT_EQ(gate(prompts + "top_k: 2\n", {}, "both").code, 0);
  EXPECT_EQ(tokens("both", "1+2=3;"), 6 + 1);

  folder.write("sea/chat_template.jinja", "{% for m in messages %}<<{{ m.content }}>>{% endfor %}");
  EXPECT_EQ(tokens("gate", "the sea"), 7 + 4);
  EXPECT_EQ(tokens("gate", "1+2=3;"), 6 + 1);
  EXPECT_EQ(tokens("both", "1+2=3;"), 6 + 4);
  for (const std::string name : {"sea", "sums"}) fs::remove(folder / name / "chat_template.jinja");
  for (const std::string command : {"run", "chat"}) {
    std::vector<std::string> arguments = {command, out()};
    if (command == "run") arguments.insert(arguments.end(), {"--chat", "-p", "a"});
    const test::Outcome none = test::coterie(arguments, {.input = "a\n"});
    EXPECT_EQ(none.code, 2);
    EXPECT_NE(none.err.find("gate: has no chat template"), std::string::npos) << none.err;
  }
}

TEST_F(GateCommands, ExpertsAreShownModelByModel) {
  const std::string moe = (folder / "moe").string();
  ASSERT_EQ(test::coterie({"upcycle", model("sea"), "-o", moe, "--experts", "4", "--top-k", "2"}).code, 0);
  const std::string models = "\nmodels:\n  - {source_model: " + model("sums") + "@sums}\n  - {source_model: " + moe +
                             "@sea}\n  - {source_model: " + model("sea") + "@sea}\n";
  const auto with = [&](std::string keys, const std::string& of_sums, const std::string& of_sea) {
    keys += models;
    for (const auto& [mark, text] : {std::pair(std::string("@sums"), of_sums), {"@sea", of_sea}, {"@sea", of_sea}})
      keys.replace(keys.find(mark), mark.size(), text);
    return keys;
  };
  ASSERT_EQ(gate(with("gate: uniform", "", "")).code, 0);
  const base::Json layers = json({"run", out(), "-p", "the", "-n", "4", "--experts", "--json", "-q"})["experts"];
  ASSERT_EQ(layers.size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    EXPECT_EQ(layers[l]["model"], "moe");
    EXPECT_EQ(layers[l]["layer"], l);
  }
  const test::Outcome words = test::coterie({"run", out(), "-p", "the", "-n", "4", "--experts"});
  EXPECT_NE(words.out.find("moe: experts used by "), std::string::npos) << words.out;

  const std::string prompts = ", positive_prompts: ";
  ASSERT_EQ(gate(with("gate: prompt", prompts + "['1+2=3; 4+', 5=9]", prompts + "[the sea is wide]"), {}, "g2").code,
            0);
  const std::string chooses = (folder / "g2").string();
  const test::Outcome dense = test::coterie({"run", chooses, "-p", "1+2=3;", "-n", "4", "--experts"});
  EXPECT_EQ(dense.code, 2);
  EXPECT_NE(dense.err.find("sums: a llama model has no routers"), std::string::npos) << dense.err;
}

TEST_F(GateCommands, OfOneModelTwiceIsTheModel) {
  const std::string twice =
      "gate: uniform\nmodels: [{source_model: " + model("sea") + "}, {source_model: " + model("sea") + "}]";
  ASSERT_EQ(gate(twice).code, 0);
  const std::vector<std::string> rest = {"--text", text("sums"), "--tokens", "500", "--precision", "f32", "--json"};
  // Two of one name go by their paths.
  const base::Json answered = run("the sea");
  EXPECT_NE(answered["gate"]["models"][0]["model"].get<std::string>().find("models/sea"), std::string::npos)
      << answered;
  const test::Outcome adapted = test::coterie({"run", out(), "-p", "x", "--adapter", model("sea")});
  EXPECT_EQ(adapted.code, 2);
  EXPECT_NE(adapted.err.find("--adapter: applies to one model"), std::string::npos) << adapted.err;
  const auto loss = [&](std::string path) {
    std::vector<std::string> arguments = {"eval", std::move(path)};
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return json(arguments)["cross_entropy"].get<double>();
  };
  EXPECT_NEAR(loss(out()), loss(model("sea")), 1e-6);
}

TEST_F(GateCommands, AGateMovesWithItsModels) {
  fs::create_directories(folder / "a");
  for (const std::string name : {"sea", "sums"})
    fs::copy(model(name), folder / "a" / name, fs::copy_options::recursive);
  folder.write("a/recipe.yaml", "gate: uniform\nmodels: [{source_model: sea}, {source_model: sums}]");
  ASSERT_EQ(test::coterie({"gate", (folder / "a" / "recipe.yaml").string(), "-o", (folder / "a" / "g").string()}).code,
            0);
  fs::rename(folder / "a", folder / "b");
  EXPECT_EQ(json({"run", (folder / "b" / "g").string(), "-p", "the", "-n", "2", "--json"})["generated_tokens"], 2);
  fs::remove_all(folder / "b" / "sums");
  const test::Outcome gone = test::coterie({"run", (folder / "b" / "g").string(), "-p", "the"});
  EXPECT_EQ(gone.code, 2);
  EXPECT_NE(gone.err.find("gate.json: names the model ../sums, which is not at"), std::string::npos) << gone.err;
}

TEST_F(GateCommands, WhatIsNoRecipeIsRefused) {
  expect_refused(gate("gate: prompts\nmodels: []"), "did you mean \"prompt\"");
  expect_refused(gate("models: []"), "gate");
  expect_refused(gate("- gate"), "expected keys");
  expect_refused(gate("gate: uniform\nmodels: [{source_model: " + model("sea") + "}]"), "two or more");
  expect_refused(gate(by_prompts("gate: prompt\ntop_k: 3")), "top_k is 3");
  expect_refused(gate(by_prompts("gate: prompt\ntemprature: 3")), "temperature");
  expect_refused(gate(by_prompts("gate: prompt\ntemperature: 0")), "temperature");
  expect_refused(gate(by_prompts("gate: prompt\nlearn: quickly")), "labels or likelihood");
  expect_refused(gate(by_prompts("gate: prompt\nreader: third")), "third");
  expect_refused(gate(by_prompts("gate: uniform")), "reads nothing");
  expect_refused(gate(recipe("gate: uniform\nsteps: 3")), "steps");
  expect_refused(gate(recipe("gate: uniform\ntop_k: 1")), "top_k is 1");
  expect_refused(gate(recipe("gate: prompt")), "positive_prompts");
  expect_refused(gate(recipe("gate: token")), "positive_prompts");
  expect_refused(gate(recipe("gate: token", ", negative_prompts: [x], texts: y")), "negative_prompts");
  expect_refused(gate(recipe("gate: token", ", text: y")), "texts");
  expect_refused(gate(recipe("gate: token\nwindow: 4096", ", texts: " + folder.write("short.txt", "abc").string())),
                 "short.txt");
  expect_refused(gate(recipe("gate: token", ", texts: nowhere.txt")), "nowhere.txt");
  expect_refused(gate("gate: uniform\nmodels: [{source_model: a}, {source_model: b}]"), "folders or GGUF files");
  expect_refused(gate("gate: uniform\nmodels: [{sorce_model: a}, {source_model: b}]"), "did you mean \"source_model\"");
  expect_refused(gate("gaet: uniform\nmodels: []"), "did you mean \"gate\"");
  // A folder that is empty is as good as none.
  fs::create_directories(folder / "given");
  EXPECT_EQ(gate(recipe("gate: uniform"), {}, "given").code, 0);
  EXPECT_TRUE(fs::exists(folder / "given" / "gate.json"));
  folder.write("other/file", "of somebody");
  EXPECT_EQ(gate(recipe("gate: uniform"), {}, "other").code, 2);
}

TEST_F(GateCommands, AFullDiskLeavesNothing) {
  const std::string path = folder.write("recipe.yaml", by_prompts("gate: prompt"));
  const test::Outcome full = test::coterie({"gate", path, "-o", out()}, {.largest_file = 200});
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST_F(GateCommands, ModelsOfOtherTokensAreRefused) {
  fs::copy(model("sums"), folder / "changed", fs::copy_options::recursive);
  base::Json tokenizer = base::read_json(folder / "changed" / "tokenizer.json");
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  base::write_text(folder / "changed" / "tokenizer.json", tokenizer.dump());
  const test::Outcome refused = gate("gate: uniform\nmodels: [{source_model: " + model("sea") +
                                     "}, {source_model: " + (folder / "changed").string() + "}]");
  expect_refused(refused, "tokenizer is not that of");
}

TEST_F(GateCommands, OtherCommandsSayWhatAGateIs) {
  ASSERT_EQ(gate(recipe("gate: uniform")).code, 0);
  for (const std::string command : {"inspect", "bench"}) {
    const test::Outcome refused = test::coterie({command, out()});
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_NE(refused.err.find("ensemble of several models"), std::string::npos) << refused.err;
  }
}

TEST_F(GateCommands, AGateThatWasTamperedWithIsRefused) {
  ASSERT_EQ(gate(by_prompts("gate: token\nlearn: labels")).code, 0);
  const base::Json whole = base::read_json(folder / "gate" / "gate.json");
  const auto refused = [&](const std::string& key, const base::Json& value, const std::string& word) {
    base::Json changed = whole;
    changed[key] = value;
    base::write_text(folder / "gate" / "gate.json", changed.dump());
    const test::Outcome outcome = test::coterie({"run", out(), "-p", "x"});
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  };
  refused("format", "other", "format");
  refused("gate", "tokens", "did you mean");
  refused("top_k", 0, "top_k");
  refused("reader", 2, "reader");
  refused("models", {"a"}, "two or more");
  refused("models", {"a", "b", "c"}, "3 models");
  refused("extra", 1, "extra");
}

TEST_F(GateCommands, HelpHasExamples) {
  const test::Outcome help = test::coterie({"gate", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_NE(help.out.find("coterie gate two-voices.yaml"), std::string::npos);
}

}  // namespace
}  // namespace coterie::cli
