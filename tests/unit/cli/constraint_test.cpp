// run --json-schema, --grammar, --regex.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>

#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

struct Constrained : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf");
    ::setenv("XDG_CACHE_HOME", folder->path().c_str(), 1);
    std::ofstream(*folder / "person.json") << R"({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"], "additionalProperties": false})";
    std::ofstream(*folder / "sum.lark") << "start: NUMBER (\"+\" NUMBER){0,3} \";\"\nNUMBER: /[0-9]{1,3}/\n";
    std::ofstream(*folder / "prompts.jsonl") << "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n";
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string file(const std::string& name) { return (*folder / name).string(); }
  static test::Outcome run(const Words& more) {
    Words words = {"run", file("tiny.gguf"), "-t", "2", "-n", "200", "--temperature", "1", "--seed", "5"};
    words.insert(words.end(), more.begin(), more.end());
    return test::coterie(words);
  }
  static void refused(const Words& more, const Words& said) {
    const test::Outcome outcome = run(more);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& word : said) EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  }

  static TempFolder* folder;
};
TempFolder* Constrained::folder = nullptr;

TEST_F(Constrained, WhatIsPrintedIsWhatWasAskedFor) {
  const test::Outcome person = run({"-p", "x", "--json-schema", file("person.json")});
  EXPECT_EQ(person.code, 0) << person.err;
  const base::Json json = base::parse_json(person.out, "stdout");
  EXPECT_TRUE(json.at("name").is_string() && json.at("age").is_number_integer() && json.size() == 2) << person.out;
  EXPECT_EQ(run({"-p", "x", "--json-schema", R"({"const": "fixed"})"}).out, "\"fixed\"\n");
  EXPECT_TRUE(std::regex_match(run({"-p", "x", "--grammar", file("sum.lark")}).out,
                               std::regex("[0-9]{1,3}(\\+[0-9]{1,3}){0,3};\n")));
  EXPECT_TRUE(std::regex_match(run({"-p", "x", "--regex", "[a-c]{2,4}!"}).out, std::regex("[a-c]{2,4}!\n")));
  const test::Outcome cut = run({"-p", "x", "--json-schema", file("person.json"), "-n", "4"});
  EXPECT_EQ(cut.code, 0);
  EXPECT_NE(cut.err.find("warning: the text was cut off (token limit) before it was what --json-schema asks for"),
            std::string::npos)
      << cut.err;
}

TEST_F(Constrained, EachLineOfAFileIsAnsweredSo) {
  const test::Outcome outcome = run({"--jsonl", file("prompts.jsonl"), "--regex", "[0-9]{3}", "--batch", "2"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_TRUE(std::regex_match(base::parse_json(line, "line").at("text").get<std::string>(), std::regex("[0-9]{3}")));
  EXPECT_EQ(count, 3);
}

TEST_F(Constrained, RefusesWhatCannotBeKept) {
  refused({"-p", "x", "--json-schema",
           R"({"type": "object", "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 1}},
               "required": ["a"]})"},
          {"--json-schema", "at /properties/a", "minLength (3) is greater than maxLength (1)"});
  refused({"-p", "x", "--json-schema", file("absent.json")}, {"absent.json"});
  refused({"-p", "x", "--json-schema", ""}, {"--json-schema", "empty"});
  refused({"-p", "x", "--regex", "a(?=b)"}, {"--regex", "look-around"});
  refused({"-p", "x", "--grammar", file("person.json")}, {"--grammar"});
  refused({"-p", "x", "--regex", "a", "--json-schema", "{}"}, {"--regex", "--json-schema"});
  refused({"-p", "x", "--regex", "[ab]+", "--ignore-eos"}, {"constraint"});
}

}  // namespace
}  // namespace coterie::cli
