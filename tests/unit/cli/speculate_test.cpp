// --speculate: what is printed is what is printed without it, and what cannot be is refused.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

struct Speculate : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf", 512);
    ::setenv("XDG_CACHE_HOME", folder->path().c_str(), 1);
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string tiny() { return (*folder / "tiny.gguf").string(); }
  static test::Outcome run(Words arguments, const Words& more, const test::Surroundings& with = {}) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return test::coterie(arguments, with);
  }
  static TempFolder* folder;
};
TempFolder* Speculate::folder = nullptr;

TEST_F(Speculate, PrintsWhatIsPrintedWithoutIt) {
  const std::vector<Words> kinds = {{"--speculate", "ngram"},
                                    {"--speculate", "draft:" + tiny(), "--draft-tokens", "3"}};
  const Words text = {"run", tiny(), "-p", "abcabcabcabc", "-n", "60", "--seed", "3", "--ignore-eos", "--json", "-q"};
  const base::Json plain = base::parse_json(run(text, {}).out, "stdout");
  EXPECT_FALSE(plain.contains("drafted_tokens"));
  for (const Words& kind : kinds) {
    const base::Json drafted = base::parse_json(run(text, kind).out, "stdout");
    EXPECT_EQ(drafted["tokens"], plain["tokens"]);
    EXPECT_EQ(drafted["text"], plain["text"]);
    EXPECT_LE(drafted["accepted_tokens"], drafted["drafted_tokens"]);
  }
  std::ofstream(*folder / "lines.jsonl") << "{\"prompt\": \"one one one\"}\n{\"prompt\": \"two two two\"}\n";
  const Words lines = {"run", tiny(), "--jsonl", (*folder / "lines.jsonl").string(), "-n", "20", "--seed", "1", "-q"};
  const Words chat = {"chat", tiny(), "-n", "12", "--seed", "1", "-q", "--no-history"};
  for (const Words& kind : kinds) {
    EXPECT_EQ(run(lines, kind).out, run(lines, {}).out);
    EXPECT_EQ(run(chat, kind, {.input = "hello hello\nhello hello\n"}).out,
              run(chat, {}, {.input = "hello hello\nhello hello\n"}).out);
  }
  const test::Outcome told = run({"run", tiny(), "-p", "ab", "-n", "5", "--greedy"}, kinds[0]);
  EXPECT_NE(told.err.find("draft"), std::string::npos) << told.err;
}

TEST_F(Speculate, WhatCannotBeIsRefused) {
  const auto refused = [](const Words& arguments, const Words& words) {
    const test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& word : words)
      EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in " << outcome.err;
  };
  const Words text = {"run", tiny(), "-p", "x"};
  const auto with = [&](Words more) {
    more.insert(more.begin(), text.begin(), text.end());
    return more;
  };
  refused(with({"--speculate", "magic"}), {"--speculate", "magic", "ngram", "draft:MODEL"});
  refused(with({"--speculate", ""}), {"--speculate", "is empty"});
  refused(with({"--draft-always"}), {"--draft-always", "--speculate"});
  refused({"inspect", tiny(), "--acceptance", "0.5"}, {"--acceptance", "--draft-tokens"});
  refused(with({"--speculate", "draft:"}), {"--speculate", "draft:MODEL"});
  refused(with({"--speculate", "draft:absent.gguf"}), {"absent.gguf"});
  refused(with({"--speculate", "mtp"}), {"multi-token prediction", "eh_proj"});
  refused(with({"--draft-tokens", "4"}), {"--draft-tokens", "--speculate"});
  refused(with({"--speculate", "ngram", "--draft-tokens", "0"}), {"--draft-tokens"});
  refused(with({"--speculate", "ngram", "--experts"}), {"--experts", "--speculate"});
  refused(with({"--speculate", "ngram", "--router", "capacity:1"}), {"--speculate", "capacity"});
  refused(with({"--speculate", "ngram", "--rope-scaling", "dynamic", "--rope-scale", "2"}), {"--speculate", "dynamic"});
  refused({"bench", tiny(), "--acceptance", "0.5"}, {"--acceptance", "--draft-tokens"});
  refused({"bench", tiny(), "--draft-tokens", "2", "--acceptance", "1.5"}, {"--acceptance", "0 to 1"});
}

TEST_F(Speculate, WhatIsAlwaysDraftedDependsOnTheTextAlone) {
  const Words words = {"run", tiny(), "-p", "ab ab ab ab", "-n", "24", "--greedy", "--ignore-eos", "--quiet", "--json"};
  const auto figures = [&](const Words& more) {
    Words all = words;
    all.insert(all.end(), more.begin(), more.end());
    const test::Outcome outcome = test::coterie(all);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return base::parse_json(outcome.out, "stdout");
  };
  const base::Json plain = figures({});
  EXPECT_EQ(plain["token_seconds"].size(), 24U);
  EXPECT_EQ(plain["token_seconds"][0], 0);
  const Words drafts = {"--speculate", "ngram", "--draft-tokens", "3", "--draft-always"};
  const base::Json once = figures(drafts), again = figures(drafts);
  EXPECT_EQ(once["tokens"], plain["tokens"]);
  for (const char* key : {"draft_steps", "drafted_tokens", "accepted_tokens"}) EXPECT_EQ(once[key], again[key]) << key;
  EXPECT_GT(once["drafted_tokens"], 0);
}

TEST_F(Speculate, BenchAndInspectTellTheGain) {
  const test::Outcome bench = test::coterie({"bench", tiny(), "--prompt", "0", "--generate", "4", "--repeat", "1",
                                             "--draft-tokens", "2", "--acceptance", "1", "--json"});
  ASSERT_EQ(bench.code, 0) << bench.err;
  const base::Json figures = base::parse_json(bench.out, "stdout")["speculated"];
  ASSERT_EQ(figures.size(), 2U);
  EXPECT_EQ(figures[1]["drafted"], 2);
  EXPECT_NEAR(figures[1]["tokens_per_second"].get<double>() * figures[1]["step_seconds"].get<double>(), 3, 1e-6);
  const test::Outcome inspect = test::coterie({"inspect", tiny(), "--json"});
  ASSERT_EQ(inspect.code, 0) << inspect.err;
  const base::Json gains = base::parse_json(inspect.out, "stdout")["speculation"];
  EXPECT_GT(gains[0]["gain"], 1);
  EXPECT_LT(gains[0]["gain"], 1.8);
}

}  // namespace
}  // namespace coterie::cli
