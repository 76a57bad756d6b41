// The commands that make models out of models, as a user or a script meets them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using base::Json;
using Words = std::vector<std::string>;

struct Surgery : testing::Test {
  void SetUp() override {
    runtime::test::write_tiny_gguf(folder / "tiny.gguf");
    ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
    std::string text;
    for (int i = 0; i < 40; ++i) text += "the quick brown fox " + std::to_string(i * i);
    folder.write("text.txt", text);
  }
  std::string file(const std::string& name) const { return (folder / name).string(); }
  std::string tiny() const { return file("tiny.gguf"); }
  static Json json_of(const Words& arguments) {
    const test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return base::parse_json(outcome.code == 0 ? outcome.out : "{}", "stdout");
  }
  /// Exit code 2, and all of `words` in one message.
  void refused(const Words& arguments, const Words& words) const {
    const test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& word : words) EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  }
  TempFolder folder;
};

TEST_F(Surgery, QuantizeSaysWhatItWroteAndLost) {
  const std::string model = runtime::test::fixture("qwen3-moe");  // whose experts' down has rows of 32
  const Json said = json_of({"quantize", model, "-o", file("q.gguf"), "--to", "Q8_0", "--json"});
  EXPECT_EQ(said["file"], file("q.gguf"));
  EXPECT_GT(said["values"]["q8_0"], 0);
  EXPECT_GT(said["values"]["f16"], 0);  // rows of 48 are no blocks
  EXPECT_GT(said["relative_errors"]["q8_0"].get<double>(), 1e-4);
  EXPECT_LT(said["relative_errors"]["q8_0"].get<double>(), 1e-2);
  EXPECT_EQ(json_of({"inspect", file("q.gguf"), "--json"})["total_parameters"],
            json_of({"inspect", model, "--json"})["total_parameters"]);
  const test::Outcome words = test::coterie(
      {"quantize", model, "-o", file("q.gguf"), "--to", "q8_0", "--at", "experts=q4_0", "-t", "1", "--force"});
  EXPECT_EQ(words.code, 0) << words.err;
  EXPECT_NE(words.err.find("in q4_0 (error "), std::string::npos) << words.err;

  refused({"quantize", model, "-o", file("x.gguf")}, {"--to"});
  refused({"quantize", model, "-o", file("x.gguf"), "--to", "q4_km"}, {"q4_km", "q4_k_m"});
  refused({"quantize", model, "-o", file("x"), "--to", "q8_0"}, {".gguf"});
  refused({"quantize", file("q.gguf"), "-o", file("x.gguf"), "--to", "q5_0"}, {"already", "--requantize"});
  refused({"quantize", model, "-o", file("x.gguf"), "--to", "q8_0", "--at", "router=q4_0"}, {"router", "8 bits"});
  refused({"quantize", model, "-o", file("x.gguf"), "--to", "q8_0", "--importance", tiny()}, {"tiny.gguf", "imatrix"});
  refused({"quantize", tiny(), "-o", tiny(), "--to", "q8_0"}, {"never overwritten"});
  refused({"quantize", tiny(), "-o", tiny(), "--to", "q8_0", "--force"}, {"never overwritten"});
  EXPECT_FALSE(std::filesystem::exists(file("x.gguf")));
  const test::Outcome again =
      test::coterie({"quantize", file("q.gguf"), "-o", file("x.gguf"), "--to", "q5_0", "--requantize"});
  EXPECT_EQ(again.code, 0);
  EXPECT_NE(again.err.find("errors of both"), std::string::npos) << again.err;
}

// One rule for what is there already, of files and of folders.
TEST_F(Surgery, WhatIsThereIsNotWrittenOver) {
  const std::string model = runtime::test::fixture("qwen3-moe"), there = folder.write("there.gguf", "mine").string();
  const std::string text = folder.write("text.txt", std::string(400, 'x')).string();
  const std::vector<std::vector<std::string>> to_file = {
      {"convert", model, "-o", there},
      {"quantize", model, "-o", there, "--to", "q8_0"},
      {"importance", tiny(), "--text", text, "-o", there},
      {"prune", tiny(), "--keep", "2", "--text", text, "-o", there},
      {"bench", "--shape", model + "/config.json", "--write", there, "--prompt", "2", "--generate", "0", "--quant",
       "f16", "--repeat", "1"}};
  for (std::vector<std::string> command : to_file) {
    refused(command, {"there.gguf", "already exists", "--force"});
    EXPECT_EQ(base::read_text(there), "mine");
    command.emplace_back("--force");
    const test::Outcome forced = test::coterie(command);
    EXPECT_EQ(forced.code, 0) << forced.err;
    EXPECT_GT(std::filesystem::file_size(there), 1000u);
    folder.write("there.gguf", "mine");
  }
  folder.write("full/file", "mine");
  refused({"convert", model, "-o", file("full")}, {"full", "already exists", "delete"});
  refused({"convert", model, "-o", file("full"), "--force"}, {"full", "already exists", "delete"});
  std::filesystem::create_directory(file("empty"));
  EXPECT_EQ(test::coterie({"convert", model, "-o", file("empty")}).code, 0);
  EXPECT_TRUE(std::filesystem::exists(file("empty/config.json")));
}

TEST_F(Surgery, AFullDiskLeavesNothing) {
  for (const Words& command :
       {Words{"quantize", tiny(), "-o", file("x.gguf"), "--to", "q8_0"}, Words{"convert", tiny(), "-o", file("folder")},
        Words{"importance", tiny(), "--text", file("text.txt"), "-o", file("x.gguf")},
        Words{"prune", tiny(), "--keep", "3", "--text", file("text.txt"), "-o", file("x.gguf")}}) {
    const test::Outcome outcome = test::coterie(command, {.largest_file = 2000});
    EXPECT_EQ(outcome.code, 1) << command[0] << ": " << outcome.err;
    EXPECT_NE(outcome.err.find("written"), std::string::npos) << outcome.err;
  }
  int64_t left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    left += entry.path().filename().string().find("x.gguf") != std::string::npos ||
            entry.path().filename().string().find("folder") != std::string::npos;
  EXPECT_EQ(left, 0);
}

TEST_F(Surgery, ImportanceOfSeveralTextsIsWhatTheyAddUpTo) {
  folder.write("other.txt", "Another text, of other words, for the same model to read.");
  const Json both = json_of({"importance", tiny(), "--text", file("text.txt"), "--text", file("other.txt"), "-o",
                             file("both.gguf"), "--json"});
  json_of({"importance", tiny(), "--text", file("text.txt"), "-o", file("one.gguf"), "--json"});
  const Json added = json_of({"importance", tiny(), "--text", file("other.txt"), "--add", file("one.gguf"), "-o",
                              file("added.gguf"), "--json"});
  EXPECT_EQ(both["tensors"], added["tensors"]);
  const auto a = checkpoint::open_gguf(file("both.gguf")), b = checkpoint::open_gguf(file("added.gguf"));
  ASSERT_EQ(a->tensors().size(), b->tensors().size());
  for (const checkpoint::TensorInfo& t : a->tensors()) {
    const auto* x = reinterpret_cast<const float*>(t.bytes.data());
    const auto* y = reinterpret_cast<const float*>(b->find(t.name)->bytes.data());
    for (size_t i = 0; i < t.bytes.size() / 4; ++i) ASSERT_NEAR(x[i], y[i], std::ldexp(std::abs(x[i]), -23)) << t.name;
  }
  const Json said = json_of({"quantize", tiny(), "-o", file("q.gguf"), "--to", "q4_0", "--importance", file("one.gguf"),
                             "--importance", file("both.gguf"), "--json"});
  EXPECT_GT(said["values"]["f16"], 0);
  refused({"importance", tiny(), "-o", file("x.gguf")}, {"--text"});
}

TEST_F(Surgery, PruneDropsExpertsAndSaysWhatItCost) {
  const Json said =
      json_of({"prune", tiny(), "--keep", "3", "--text", file("text.txt"), "-o", file("pruned.gguf"), "--json"});
  EXPECT_LT(said["parameters_after"], said["parameters_before"]);
  EXPECT_GT(said["cross_entropy_before"], 0);
  EXPECT_GT(said["cross_entropy_after"], 0);
  for (const Json& layer : said["layers"]) {
    ASSERT_EQ(layer["kept"].size(), 3);
    double worst_kept = 1e30, best_gone = -1;
    for (size_t e = 0; e < layer["saliency"].size(); ++e) {
      const bool kept = std::find(layer["kept"].begin(), layer["kept"].end(), e) != layer["kept"].end();
      const double saliency = layer["saliency"][e];
      kept ? worst_kept = std::min(worst_kept, saliency) : best_gone = std::max(best_gone, saliency);
    }
    EXPECT_GE(worst_kept, best_gone);
  }
  EXPECT_EQ(test::coterie({"run", file("pruned.gguf"), "-p", "hello", "-n", "3", "-q"}).code, 0);
  refused({"prune", tiny(), "--keep", "1", "--text", file("text.txt"), "-o", file("x.gguf")}, {"--keep", "takes 2"});
  refused({"prune", tiny(), "--keep", "99", "--text", file("text.txt"), "-o", file("x.gguf")}, {"--keep", "99"});
  refused({"prune", tiny(), "--keep", "8", "--text", file("text.txt"), "-o", file("x.gguf")}, {"--keep", "drops none"});
  refused({"prune", tiny(), "--keep", "3", "--text", file("text.txt"), "-o", file("x")}, {".gguf", "convert"});
  // Before the text is read, which takes hours for a large model: there is none.
  refused({"prune", tiny(), "--keep", "3", "--text", file("nowhere.txt"), "-o", file("x")}, {".gguf", "convert"});
  refused({"prune", runtime::test::fixture("mixtral"), "--keep", "3", "--uneven", "--text", file("nowhere.txt"), "-o",
           file("x")},
          {"one number of experts"});
  refused({"importance", tiny(), "--text", file("text.txt"), "--add", file("nowhere.gguf"), "-o", file("x.gguf")},
          {"nowhere.gguf"});
}

TEST_F(Surgery, AFolderComesBackFromItsGguf) {
  const std::string source = runtime::test::fixture("mixtral");
  EXPECT_EQ(test::coterie({"convert", source, "-o", file("m.gguf")}).code, 0);
  EXPECT_EQ(test::coterie({"convert", file("m.gguf"), "-o", file("folder")}).code, 0);
  EXPECT_EQ(json_of({"inspect", file("folder"), "--json"})["total_parameters"],
            json_of({"inspect", source, "--json"})["total_parameters"]);
  refused({"convert", file("m.gguf"), "-o", file("folder")}, {"already exists"});
  refused({"convert", file("m.gguf"), "-o", file("other"), "--to", "q8_0"}, {"q8_0", "safetensors"});
  refused({"convert", file("m.gguf"), "-o", file("other"), "--at", "experts=f16"}, {".gguf"});
}

TEST_F(Surgery, EvalScoresChoices) {
  folder.write("questions.jsonl",
               "{\"prompt\": \"the quick brown\", \"choices\": [\"fox\", \"a much longer answer\"], \"answer\": 0}\n"
               "\n{\"question\": \"a b c\", \"choices\": [\" d\", \"e\", \"f\"], \"answer\": \"C\", \"id\": 7}\n"
               "{\"question\": \"x \", \"choices\": [\"yes\", \"no\"], \"answer\": \"no\"}\n");
  const Words eval = {"eval", tiny(), "--choices", file("questions.jsonl"), "--precision", "f32", "--json"};
  const Json said = json_of(eval);
  EXPECT_EQ(said["questions"], 3);
  const double accuracy = said["accuracy"];
  EXPECT_NEAR(said["accuracy_standard_error"].get<double>(), std::sqrt(accuracy * (1 - accuracy) / 2), 1e-12);
  EXPECT_NEAR(said["accuracy_by_chance"].get<double>(), (0.5 + 1.0 / 3 + 0.5) / 3, 1e-12);
  Words first = eval;
  first.insert(first.end(), {"--questions", "1"});
  EXPECT_EQ(json_of(first)["questions"], 1);
  EXPECT_TRUE(json_of(first)["accuracy_standard_error"].is_null()) << "of one question nothing is known";

  const auto bad = [&](const std::string& line, const Words& words) {
    folder.write("bad.jsonl", "{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0}\n" + line + "\n");
    Words all = {"bad.jsonl: line 2"};
    all.insert(all.end(), words.begin(), words.end());
    refused({"eval", tiny(), "--choices", file("bad.jsonl")}, all);
  };
  bad("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"]}", {"answer"});
  bad("{\"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": 0}", {"two or more"});
  bad("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 2}", {"0 to 1"});
  bad("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": \"D\"}", {"neither"});
  bad("{\"prompt\": \"a\", \"question\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0}", {"both"});
  bad("not json", {});
  bad("{\"prompt\": \"a\", \"choices\": [\"b\", \"b\"], \"answer\": 0}", {"0 and 1 are the same"});
  // A prompt that is too long is said before the first question is scored, or shortened when that is asked for.
  const std::string words = [] {
    std::string text;
    for (int i = 0; i < 400; ++i) text += "word ";
    return text;
  }();
  const std::string long_question = "{\"prompt\": \"" + words + "\", \"choices\": [\"b\", \"c\"], \"answer\": 0}";
  bad(long_question, {"tokens, the context has", "--truncate"});
  const Json shortened = json_of({"eval", tiny(), "--choices", file("bad.jsonl"), "--truncate", "--json"});
  EXPECT_EQ(shortened["questions"], 2);
  EXPECT_EQ(shortened["truncated"], 1);
  refused({"eval", tiny()}, {"--text", "--choices"});
  refused({"eval", tiny(), "--text", file("text.txt"), "--choices", file("bad.jsonl")}, {"either"});
  refused({"eval", tiny(), "--choices", file("bad.jsonl"), "--window", "9"}, {"--window"});
  refused({"eval", tiny(), "--text", file("text.txt"), "--questions", "9"}, {"--questions"});
}

}  // namespace
}  // namespace coterie::cli
