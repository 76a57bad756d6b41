// What the makers of a model recommend for sampling, from a folder and from a GGUF.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using base::Json;
using Words = std::vector<std::string>;

struct Recommended : testing::Test {
  void SetUp() override {
    runtime::test::write_tiny_gguf(folder / "tiny.gguf");
    ran({"convert", file("tiny.gguf"), "-o", file("model")});
    plain = generated(file("model"), {});
    const std::filesystem::path path = folder / "model" / "generation_config.json";
    Json config = base::read_json(path);
    config["temperature"] = 5.5, config["top_k"] = 0, config["top_p"] = 1, config["min_p"] = 0;
    base::write_text(path, config.dump());
  }
  std::string file(const std::string& name) const { return (folder / name).string(); }
  static test::Outcome ran(const Words& arguments) {
    test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome;
  }
  static Json generated(const std::string& model, const Words& options) {
    Words words = {"run", model, "-p", "the", "-n", "24", "--seed", "3", "--ignore-eos", "--json"};
    words.insert(words.end(), options.begin(), options.end());
    return base::parse_json(ran(words).out, "stdout")["tokens"];
  }
  TempFolder folder;
  Json plain;
};

TEST_F(Recommended, IsTheDefaultOfRun) {
  const Words asked = {"--temp", "5.5", "--top-k", "0", "--top-p", "1", "--min-p", "0"};
  const Json wanted = generated(file("model"), asked);
  EXPECT_NE(wanted, plain);
  EXPECT_EQ(generated(file("model"), {}), wanted);
  EXPECT_EQ(generated(file("model"), {"--temp", "0.8", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.05"}), plain)
      << "options win";
  EXPECT_EQ(generated(file("model"), {"--greedy"}), generated(file("tiny.gguf"), {"--greedy"}));
  const test::Outcome told = ran({"run", file("model"), "-p", "the", "-n", "2", "--top-k", "3"});
  EXPECT_NE(told.err.find("as this model recommends: --temperature 5.5, --top-p 1, --min-p 0\n"), std::string::npos)
      << told.err;
}

TEST_F(Recommended, GoesFromFormatToFormat) {
  ran({"convert", file("model"), "-o", file("made.gguf")});
  EXPECT_EQ(generated(file("made.gguf"), {}), generated(file("model"), {}));
  ran({"convert", file("made.gguf"), "-o", file("back")});
  const Json config = base::read_json(folder / "back" / "generation_config.json");
  EXPECT_EQ(config["temperature"], 5.5);
  EXPECT_EQ(config["top_k"], 0);
  ran({"quantize", file("made.gguf"), "-o", file("q.gguf"), "--to", "q8_0"});
  EXPECT_NE(ran({"run", file("q.gguf"), "-p", "the", "-n", "1"}).err.find("--temperature 5.5"), std::string::npos);
}

TEST_F(Recommended, LinesTakeItToo) {
  base::write_text(folder / "in.jsonl", "{\"prompt\": \"the\"}\n");
  const Words lines = {"run", "--jsonl", file("in.jsonl"), "-n", "24", "--seed", "3", "--ignore-eos", "-q"};
  const auto answer = [&](const std::string& model, const std::string& out, const Words& options) {
    Words words = {lines[0], model};
    words.insert(words.end(), lines.begin() + 1, lines.end());
    words.insert(words.end(), {"-o", out});
    words.insert(words.end(), options.begin(), options.end());
    ran(words);
    return base::parse_json(base::read_text(out), "line")["text"];
  };
  const Json wanted =
      answer(file("tiny.gguf"), file("a"), {"--temp", "5.5", "--top-k", "0", "--top-p", "1", "--min-p", "0"});
  EXPECT_EQ(answer(file("model"), file("b"), {}), wanted);
}

TEST_F(Recommended, NonsenseIsRefusedByName) {
  base::write_text(folder / "model" / "generation_config.json", R"({"top_p": 7})");
  const test::Outcome outcome = test::coterie({"run", file("model"), "-p", "the", "-n", "1"});
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_NE(outcome.err.find("generation_config.json"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("top_p: expected a number above 0 and at most 1, found 7"), std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace coterie::cli
