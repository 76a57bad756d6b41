// What commands do with files: a source is never overwritten, two writers do not spoil each other's work, what a killed
// one left goes, empty names and full disks are errors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "base/json.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/line_file.h"
#include "support/places.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

struct Files : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    ::setenv("XDG_CACHE_HOME", folder->path().c_str(), 1);
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf");
    folder->write("text.txt", "the quick brown fox jumps over the lazy dog");
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string file(const std::string& name) { return (*folder / name).string(); }
  static std::string bytes_of(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  static void refused(const Words& arguments, const Words& words) {
    const test::Outcome outcome = test::coterie(arguments);
    std::string command;
    for (const std::string& argument : arguments) command += " '" + argument + "'";
    EXPECT_EQ(outcome.code, 2) << command << "\n" << outcome.err;
    for (const std::string& word : words)
      EXPECT_NE(outcome.err.find(word), std::string::npos) << command << "\n" << word << " in " << outcome.err;
  }
  static TempFolder* folder;
};
TempFolder* Files::folder = nullptr;

TEST(FileOptions, EachSaysWhatIsDoneWithItsFile) {
  CLI::App app("", "coterie");
  Action action;
  add_commands(app, action);
  EXPECT_EQ(unmarked_options(app), Words{}) << "->check(reads()) or ->check(writes()): src/cli/command_files.h";
}

TEST_F(Files, ASourceIsNeverOverwritten) {
  const std::string model = file("tiny.gguf"), text = file("text.txt"), whole = file("whole");
  ASSERT_EQ(test::coterie({"convert", model, "-o", whole, "--to", "f32"}).code, 0);
  ASSERT_EQ(test::coterie({"importance", model, "--text", text, "-o", file("one.imatrix.gguf")}).code, 0);
  fs::create_symlink("tiny.gguf", file("symbolic.gguf"));
  fs::create_hard_link(model, file("hard.gguf"));
  fs::create_hard_link(fs::path(whole) / "config.json", file("linked-config.json"));
  fs::copy_file(text, file("page.json"));
  fs::create_directory(file("run"));
  const std::string log = "{\"event\": \"start\"}\n";
  folder->write("run/log.jsonl", log);
  folder->write("prompts.jsonl", "{\"prompt\": \"one\"}\n");
  const base::Json models = {"../tiny.gguf", "../whole"};
  const base::Json gate = {{"format", "coterie gate 1"}, {"gate", "uniform"}, {"top_k", 2},
                           {"temperature", 1.0},         {"reader", 0},       {"models", models}};
  folder->write("gate/gate.json", gate.dump());
  std::map<fs::path, std::string> before;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder->path()))
    if (entry.is_regular_file()) before[entry.path()] = bytes_of(entry.path());
  const std::vector<Words> all = {
      {"lens", model, "--text", text, "-o", text},
      {"lens", model, "--text", text, "-o", file("symbolic.gguf")},
      {"lens", model, "--text", file("page.json"), "-o", file("page.html")},
      {"lens", whole, "--text", text, "-o", whole + "/config.html"},
      {"lens", whole, "--text", text, "-o", file("linked-config.html")},
      {"lens", whole, "--tagged", text, "-o", text},
      {"lens", model, "--text", text, "--checkpoint", whole, "-o", whole + "/model.safetensors"},
      {"trace", model, "--text", text, "-o", text},
      {"trace", model, "--text", text, "-o", file("hard.gguf")},
      {"trace", whole, "--text", text, "-o", whole + "/tokenizer.json"},
      {"eval", model, "--text", text, "--losses", text},
      {"eval", file("gate"), "--text", text, "--losses", model},
      {"eval", whole, "--text", text, "--losses", whole + "/model.safetensors"},
      {"logits", model, "--text", "@" + text, "-o", text},
      {"logits", model, "--text", "a", "-o", file("symbolic.gguf")},
      {"importance", model, "--text", text, "-o", text},
      {"importance", model, "--text", text, "--add", file("one.imatrix.gguf"), "-o", file("one.imatrix.gguf")},
      {"quantize", model, "--to", "q8_0", "--requantize", "-o", file("hard.gguf")},
      {"quantize", whole, "--to", "q8_0", "--importance", file("one.imatrix.gguf"), "-o", file("one.imatrix.gguf")},
      {"prune", model, "--keep", "1", "--text", text, "-o", model},
      {"merge-adapter", model, whole + ":0.5", "-o", whole + "/model.safetensors"},
      {"report", file("run"), "-o", file("run/log.jsonl")},
      {"tokenizer", "train", whole + "/tokenizer.json", "-o", whole},
  };
  for (Words words : all) {
    words.push_back("--force");
    refused(words, {"never overwritten", words[words.size() - 2].substr(0, 4)});
  }
  refused({"run", model, "--jsonl", file("prompts.jsonl"), "-o", text, "--grammar", text}, {"never overwritten"});
  refused({"convert", whole, "-o", whole}, {"never overwritten"});
  for (const auto& [path, bytes] : before) EXPECT_TRUE(bytes_of(path) == bytes) << path;
  EXPECT_TRUE(fs::is_symlink(file("symbolic.gguf")));
}

TEST_F(Files, AnEmptyValueIsNamed) {
  const std::string model = file("tiny.gguf");
  refused({"serve", ""}, {"MODEL", "is empty"});
  refused({"run", "", "-p", "a"}, {"MODEL", "is empty"});
  refused({"run", model, "-p", "a", "--temperature", ""}, {"--temperature", "is empty"});
  refused({"run", model, "-p", "a", "--adapter", ""}, {"--adapter", "is empty"});
  refused({"eval", model, "--text", ""}, {"--text", "is empty"});
  refused({"logits", model, "--ids", "", "-o", file("x")}, {"--ids", "is empty"});
  refused({"convert", model, "-o", ""}, {"--output", "is empty"});
  EXPECT_EQ(test::coterie({"tokenize", model, "-p", ""}).code, 0) << "a text may be empty";
}

TEST_F(Files, AnEmptyTextToCompareOnIsRefused) {
  folder->write("empty.txt", "");
  refused({"upcycle", runtime::test::fixture("llama/base"), "-o", file("x"), "--experts", "2", "--top-k", "1", "--text",
           file("empty.txt")},
          {"empty.txt", "is empty"});
  EXPECT_FALSE(fs::exists(file("x")));
}

TEST_F(Files, TwoThatAnswerIntoOneFileDoNotMix) {
  folder->write("two.jsonl", "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n");
  const Words command = {"run", file("tiny.gguf"), "--jsonl", file("two.jsonl"), "-n", "3", "-q", "--seed", "1",
                         "-o",  file("two.out")};
  const int held = ::open(file("two.out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ASSERT_GE(held, 0);
  ASSERT_EQ(::flock(held, LOCK_EX), 0);
  refused(command, {"two.out", "another process"});
  ::close(held);
  EXPECT_EQ(bytes_of(file("two.out")), "");
  EXPECT_EQ(test::coterie(command).code, 0);
  // What got no answer leaves no file.
  Words absent = command;
  absent[1] = file("absent.gguf"), absent.back() = file("deep/none.out");
  EXPECT_EQ(test::coterie(absent).code, 2);
  EXPECT_FALSE(fs::exists(file("deep")));
}

TEST_F(Files, AFullDiskIsAnErrorOfAnswersAndOfHelp) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  folder->write("one.jsonl", "{\"prompt\": \"one\"}\n");
  const test::Outcome full =
      test::coterie({"run", file("tiny.gguf"), "--jsonl", file("one.jsonl"), "-n", "3", "-o", "/dev/full"});
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_NE(full.err.find("/dev/full: cannot be written: No space left"), std::string::npos) << full.err;
  for (const char* command : {"--help", "help run", "run --help", "--version", "man run", "completions bash"}) {
    const std::string line = tests::build_folder() + "/coterie " + command + " >/dev/full 2>/dev/null";
    EXPECT_EQ(WEXITSTATUS(std::system(line.c_str())), 1) << command;
  }
}

TEST_F(Files, WhatAKilledCommandLeftGoes) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  const std::string dead = std::to_string(child), alive = std::to_string(::getpid());
  for (const std::string& name : {"left.gguf." + dead + "-0.part", "left.gguf." + alive + "-0.part",
                                  "left.gguf." + dead + "-0.part.txt", "other.gguf." + dead + "-0.part"})
    folder->write(name, "half");
  folder->write("left." + dead + ".partial/model.safetensors", "half");
  const test::Outcome one = test::coterie({"convert", file("tiny.gguf"), "-o", file("left.gguf")});
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_NE(one.err.find("left.gguf." + dead + "-0.part is removed"), std::string::npos) << one.err;
  EXPECT_FALSE(fs::exists(file("left.gguf." + dead + "-0.part")));
  EXPECT_TRUE(fs::exists(file("left.gguf." + alive + "-0.part"))) << "its process lives";
  EXPECT_TRUE(fs::exists(file("left.gguf." + dead + "-0.part.txt"))) << "somebody's own name";
  EXPECT_TRUE(fs::exists(file("other.gguf." + dead + "-0.part"))) << "of another output";
  EXPECT_EQ(test::coterie({"convert", file("tiny.gguf"), "-o", file("left"), "--to", "f32"}).code, 0);
  EXPECT_FALSE(fs::exists(file("left." + dead + ".partial")));
}

TEST_F(Files, SignalsGiveTheCodesThatShellsGive) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "the quick brown fox jumps over the lazy dog ";
  folder->write("long.txt", text);
  const auto code_of = [&](const std::string& signal, const std::string& command) {
    const std::string line = "timeout -s " + signal + " --preserve-status 0.3 " + tests::build_folder() + "/coterie " +
                             command + " >/dev/null 2>&1";
    return WEXITSTATUS(std::system(("bash -c '" + line + "'").c_str()));
  };
  const std::string model = file("tiny.gguf"), long_text = file("long.txt");
  for (const std::string& command : {"eval " + model + " --text " + long_text,
                                     "trace " + model + " --text " + long_text + " -o " + file("t.safetensors")}) {
    EXPECT_EQ(code_of("INT", command), 130) << command;
    EXPECT_EQ(code_of("TERM", command), 143) << command;
  }
  EXPECT_FALSE(fs::exists(file("t.safetensors")));
}

TEST_F(Files, LinesAreReadOneByOne) {
  const std::string longest(200'000, 'x');
  folder->write("lines", "\xef\xbb\xbfone\n\n" + longest + "\nlast");
  LineFile lines(file("lines"));
  std::string line;
  std::vector<std::pair<std::string, bool>> read;
  while (lines.next(line)) read.emplace_back(line, lines.whole());
  EXPECT_EQ(read,
            (std::vector<std::pair<std::string, bool>>{{"one", true}, {"", true}, {longest, true}, {"last", false}}));
  EXPECT_EQ(lines.number(), 4);
  EXPECT_EQ(lines.end(), static_cast<int64_t>(fs::file_size(file("lines"))));
}

// More than once fitted into the memory that reading a small file may take: 270 MB.
TEST_F(Files, SlowAnswersOfAnySizeAreGoneOnWith) {
  std::ofstream prompts(file("many.jsonl"));
  for (int i = 0; i < 271; ++i) prompts << "{\"prompt\": \"one\"}\n";
  prompts.close();
  const Words command = {"run", file("tiny.gguf"), "--jsonl", file("many.jsonl"), "-n", "1", "-q", "--seed", "1",
                         "-o",  file("many.out")};
  ASSERT_EQ(test::coterie(command).code, 0);
  std::istringstream answers(bytes_of(file("many.out")));
  std::ofstream large(file("many.out"));
  int count = 0;
  for (std::string line; std::getline(answers, line) && count < 270; ++count) {
    line.insert(line.find("\"text\":\"") + 8, std::string(1'000'000, 'x'));
    large << line << '\n';
  }
  large.close();
  ASSERT_GT(fs::file_size(file("many.out")), 268'435'456u);
  const test::Outcome outcome = test::coterie(command);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  fs::remove(file("many.out"));
}

}  // namespace
}  // namespace coterie::cli
