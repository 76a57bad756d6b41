// Commands about texts and tokens: tokenize, detokenize, embed, run --jsonl, logits --text, perplexity; help, manual
// pages and completions; where a prompt comes from.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

struct TextCommands : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf");
    ::setenv("XDG_CACHE_HOME", folder->path().c_str(), 1);
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string file(const std::string& name) { return (*folder / name).string(); }
  static std::string tiny() { return file("tiny.gguf"); }
  static std::string bytes_of(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  static std::string out_of(const Words& arguments, const test::Surroundings& with = {}) {
    const test::Outcome outcome = test::coterie(arguments, with);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  }
  static base::Json json_of(const Words& arguments, const test::Surroundings& with = {}) {
    return base::parse_json(out_of(arguments, with), "stdout");
  }
  static void refused(const Words& arguments, const Words& words, const test::Surroundings& with = {}) {
    const test::Outcome outcome = test::coterie(arguments, with);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& word : words)
      EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in " << outcome.err;
  }
  static std::vector<float> floats(const checkpoint::TensorInfo& tensor) {
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }

  static TempFolder* folder;
};
TempFolder* TextCommands::folder = nullptr;

TEST_F(TextCommands, TokensThereAndBack) {
  EXPECT_EQ(out_of({"tokenize", tiny(), "-p", "ab"}), "97 98\n");
  EXPECT_EQ(out_of({"tokenize", tiny(), "--count"}, {.input = "ab\n"}), "2\n") << "one line break is not the text's";
  EXPECT_EQ(out_of({"tokenize", tiny(), "--pieces", "-p", "ab"}), "97\ta\n98\tb\n");
  const base::Json json = json_of({"tokenize", tiny(), "--json", "-p", "a\\nb", "-e"});
  EXPECT_EQ(json["tokens"], base::Json({97, 10, 98}));
  EXPECT_EQ(json["count"], 3);
  EXPECT_EQ(out_of({"detokenize", tiny(), "97", "98"}), "ab");
  EXPECT_EQ(out_of({"detokenize", tiny()}, {.input = "[97, 98,\n10]"}), "ab\n");
  EXPECT_EQ(json_of({"detokenize", tiny(), "--json", "97,98"})["text"], "ab");
  refused({"detokenize", tiny(), "97", "x1"}, {"x1", "not a token id"});
  refused({"detokenize", tiny(), "259"}, {"259", "vocabulary of 259"});
  refused({"tokenize", tiny()}, {"--prompt", "--file"});
  refused({"tokenize", file("absent"), "-p", "x"}, {"absent"});
}

TEST_F(TextCommands, EmbeddingsArePooledFinalStates) {
  const auto embed = [&](const Words& more) {
    Words arguments = {"embed", tiny(), "--precision", "f32", "--json", "-q"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json_of(arguments);
  };
  const auto values = [](const base::Json& json, size_t i = 0) {
    return json["embeddings"][i]["embedding"].get<std::vector<double>>();
  };
  // Causal: the last state of a text is what its first part has too, so the mean of two tokens is that of the lasts.
  const auto a = values(embed({"-p", "a", "--pooling", "last"})), ab = values(embed({"-p", "ab", "--pooling", "last"}));
  const base::Json mean = embed({"-p", "ab"});
  EXPECT_EQ(mean["pooling"], "mean");
  EXPECT_EQ(mean["embeddings"][0]["tokens"], 2);
  ASSERT_EQ(std::ssize(a), mean["dimensions"].get<int64_t>());
  double norm = 0;
  for (size_t d = 0; d < a.size(); ++d) {
    EXPECT_NEAR(values(mean)[d], (a[d] + ab[d]) / 2, 1e-5);
    norm += a[d] * a[d];
  }
  // They are what the head reads: its product with them is the logits.
  out_of({"logits", tiny(), "--text", "a", "-o", file("a.safetensors")});
  const std::vector<float> logits = floats(*checkpoint::open_safetensors(file("a.safetensors"))->find("logits"));
  const auto source = checkpoint::open_gguf(tiny());
  const checkpoint::TensorInfo* head = source->find("output.weight");
  const std::vector<float> rows = floats(head ? *head : *source->find("token_embd.weight"));
  ASSERT_EQ(rows.size(), logits.size() * a.size());
  for (size_t v = 0; v < logits.size(); ++v) {
    double product = 0;
    for (size_t d = 0; d < a.size(); ++d) product += static_cast<double>(rows[v * a.size() + d]) * a[d];
    EXPECT_NEAR(product, static_cast<double>(logits[v]), 1e-4) << v;
  }
  const auto unit = values(embed({"-p", "a", "--pooling", "last", "--normalize"}));
  for (size_t d = 0; d < a.size(); ++d) EXPECT_NEAR(unit[d], a[d] / std::sqrt(norm), 1e-6);
  folder->write("texts.txt", "a\nab\n");
  const base::Json lines = embed({"-f", file("texts.txt"), "--lines", "--pooling", "last"});
  ASSERT_EQ(lines["embeddings"].size(), 2u);
  EXPECT_EQ(values(lines, 1), ab);
  refused({"embed", tiny(), "-p", std::string(300, 'x')}, {"300 tokens", "256"});
  refused({"embed", tiny(), "-p", "x", "--pooling", "cls"}, {"--pooling", "cls", "mean, last"});
}

TEST_F(TextCommands, AFileOfPromptsInOrderAndGoneOnWith) {
  folder->write("prompts.jsonl",
                "{\"prompt\": \"one\", \"id\": \"x\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"two\"}]}\n"
                "{\"prompt\": \"" +
                    std::string(300, 'y') + "\"}\n{\"prompt\": \"four\"}\n");
  const Words run = {"run", tiny(), "--jsonl", file("prompts.jsonl"), "-n", "5", "--seed", "7", "-q"};
  const auto with = [&](const Words& more) {
    Words arguments = run;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const test::Outcome whole = test::coterie(with({"-o", file("answers.jsonl")}));
  EXPECT_EQ(whole.code, 2) << "a prompt did not fit: " << whole.err;
  const std::string answers = bytes_of(file("answers.jsonl"));
  std::istringstream lines(answers);
  std::vector<base::Json> read;
  for (std::string line; std::getline(lines, line);) read.push_back(base::parse_json(line, "answers"));
  ASSERT_EQ(read.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(read[i]["index"], i);
  EXPECT_EQ(read[0]["id"], "x");
  EXPECT_EQ(read[0]["seed"], 7);
  EXPECT_GT(read[1]["prompt_tokens"], 10) << "through the template";
  EXPECT_NE(read[2]["error"].get<std::string>().find("300 tokens"), std::string::npos);
  EXPECT_EQ(read[3]["text"], json_of({"run", tiny(), "-p", "four", "-n", "5", "--seed", "10", "-q", "--json"})["text"]);
  // To standard output, one at a time: the same.
  EXPECT_EQ(test::coterie(with({"--batch", "1"})).out, answers);
  // A file that was cut in a line goes on, and one that is whole is left alone.
  std::ofstream(file("answers.jsonl"), std::ios::binary) << answers.substr(0, answers.find('\n') + 10);
  EXPECT_EQ(test::coterie(with({"-o", file("answers.jsonl")})).code, 2);
  EXPECT_EQ(bytes_of(file("answers.jsonl")), answers);
  EXPECT_EQ(test::coterie(with({"-o", file("answers.jsonl")})).code, 0);
  EXPECT_EQ(bytes_of(file("answers.jsonl")), answers);
  // Other options, other seeds and other files are not mixed in.
  refused(with({"-o", file("answers.jsonl"), "-n", "6"}), {"answers.jsonl, line 1", "other options"});
  refused(with({"-o", file("answers.jsonl"), "--seed", "8"}), {"answers.jsonl, line 1", "--seed 7"});
  refused(with({"-o", file("prompts.jsonl")}), {"prompts.jsonl", "never overwritten"});
  EXPECT_EQ(bytes_of(file("answers.jsonl")), answers);
  const auto bad = [&](const std::string& line, const Words& words) {
    folder->write("bad.jsonl", "{\"prompt\": \"x\"}\n" + line + "\n");
    refused({"run", tiny(), "--jsonl", file("bad.jsonl")}, words);
  };
  bad("[1]", {"bad.jsonl, line 2", "expected an object"});
  bad("{\"promt\": \"x\"}", {"line 2", "promt", "did you mean \"prompt\"?"});
  bad("{\"prompt\": \"x\", \"messages\": []}", {"line 2", "one of"});
  bad("{\"prompt\": ", {"line 2"});
}

TEST_F(TextCommands, LogitsOfATextAreThoseOfItsIds) {
  const auto logits = [&](const Words& more) {
    Words arguments = {"logits", tiny(), "--force", "-o", file("l.safetensors")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    out_of(arguments);
    return floats(*checkpoint::open_safetensors(file("l.safetensors"))->find("logits"));
  };
  const std::vector<float> text = logits({"--text", "abc"});
  EXPECT_EQ(text.size(), 3u * 259u);
  EXPECT_EQ(logits({"--ids", "97,98,99"}), text);
  refused({"logits", tiny(), "--ids", "97,300", "-o", file("x")}, {"--ids", "300", "vocabulary of 259"});
  refused({"logits", tiny(), "--ids", "97,,98", "-o", file("x")}, {"--ids"});
  refused({"logits", tiny(), "--ids", "97", "--text", "a", "-o", file("x")}, {"--ids", "--text", "together"});
}

TEST_F(TextCommands, PerplexityIsEvalOfAText) {
  folder->write("text.txt", "the quick brown fox jumps over the lazy dog");
  base::Json one = json_of({"eval", tiny(), "--text", file("text.txt"), "--json"});
  base::Json other = json_of({"perplexity", "-m", tiny(), "-f", file("text.txt"), "--json"});
  EXPECT_EQ(one["perplexity"], other["perplexity"]);
}

TEST_F(TextCommands, PromptsComeFromOptionsFilesAndPipesByOneRule) {
  const Words run = {"run", tiny(), "-n", "8", "--seed", "3", "-q"};
  const auto said = [&](const Words& more, const std::string& input = "") {
    Words arguments = run;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return out_of(arguments, {.input = input});
  };
  const std::string expected = said({"-p", "hello\nyou"});
  folder->write("prompt.txt", "\xef\xbb\xbfhello\nyou\n");
  for (const Words& same :
       std::vector<Words>{{"-p", "hello\\nyou", "-e"}, {"-f", file("prompt.txt")}, {"-p", "@" + file("prompt.txt")}})
    EXPECT_EQ(said(same), expected) << same.back();
  EXPECT_EQ(said({}, "hello\nyou\n"), expected);
  EXPECT_EQ(said({"-f", "-"}, "hello\nyou"), expected);
  EXPECT_NE(said({"-p", "hello\\nyou"}), expected) << "without -e as it is";
  EXPECT_EQ(json_of({"run", tiny(), "-p", "@@alice", "-n", "1", "--json", "-q"})["prompt_tokens"], 6);
  refused({"run", tiny(), "-p", "@alice hello"}, {"--prompt", "alice hello", "@@"});
  refused({"run", tiny(), "-f", folder->write("latin.txt", "caf\xe9").string()},
          {"latin.txt", "not UTF-8", "offset 3"});
  refused({"run", tiny(), "-p", "caf\xe9"}, {"--prompt", "not UTF-8"});
}

TEST_F(TextCommands, NamesFromElsewhereAndTheLastOfARepeatedOption) {
  const std::string expected = out_of({"run", tiny(), "-p", "x", "-n", "5", "--seed", "3", "--temperature", "2", "-q"});
  EXPECT_EQ(out_of({"run", "-m", tiny(), "-p", "x", "-n", "9", "--n-predict", "5", "-s", "3", "--temp", "1", "--temp",
                    "2", "--ctx-size", "100", "-q"}),
            expected);
  EXPECT_EQ(json_of({"run", tiny(), "-p", "x", "-n", "3", "--logit-bias", "98=999", "--logit-bias", "97=1000",
                     "--greedy", "--json", "-q"})["text"],
            "aaa");
}

TEST_F(TextCommands, MistypedWordsAreNamedWithTheNearest) {
  refused({"rnu", tiny()}, {"\"rnu\" is not a command", "did you mean \"run\"?"});
  refused({"run", tiny(), "--tokesn", "3", "-p", "x"},
          {"coterie run has no option --tokesn", "did you mean \"--tokens\"?"});
  refused({"run", tiny(), "more", "-p", "x"}, {"\"more\" is one argument too many", "coterie run [OPTIONS] MODEL"});
  refused({"run", tiny(), "-p", "x", "-f", "y"}, {"--prompt and --file cannot be used together"});
  refused({"run", tiny(), "-p", "x", "--system", "y"}, {"--system needs --chat"});
  refused({"run", tiny(), "-p", "x", "-n", "99999999999999999999"}, {"--tokens", "too large"});
  refused({"run", tiny(), "-p", "x", "--top-k", "99999999999999999999"}, {"--top-k", "too large"});
  refused({"run", tiny(), "-p", "x", "--top-p", "much"}, {"--top-p: \"much\" is not a number"});
  refused({"run", tiny(), "-p", "x", "--precision", "f64"}, {"--precision: \"f64\" is not one of fast, f32"});
  refused({"run", tiny(), "-p"}, {"--prompt needs a value"});
  refused({"tokenizer"}, {"coterie tokenizer needs a command", "train"});
}

TEST_F(TextCommands, MoreThreadsThanProcessorsAreWarnedOf) {
  const test::Outcome outcome = test::coterie({"tokenize", tiny(), "-p", "x"});
  EXPECT_EQ(outcome.err, "");
  const test::Outcome many = test::coterie({"run", tiny(), "-p", "x", "-n", "1", "-t", "4096", "--help"});
  EXPECT_NE(many.err.find("warning: --threads 4096 on "), std::string::npos) << many.err;
}

TEST_F(TextCommands, HelpIsInGroupsAndInPlainWords) {
  const std::string help = out_of({"run", "--help"});
  size_t at = 0;
  for (const char* heading : {"Input:", "Output:", "Sampling:", "Routing:", "Machine:"}) {
    const size_t found = help.find(std::string("\n") + heading);
    ASSERT_NE(found, std::string::npos) << heading << help;
    EXPECT_GT(found, at) << heading;
    at = found;
  }
  for (const char* jargon : {"Excludes", "Needs:", "INT", "FLOAT", "REQUIRED", ":{"})
    EXPECT_EQ(help.find(jargon), std::string::npos) << jargon << " in " << help;
  EXPECT_NE(help.find("-n, --tokens, --n-predict, --predict N"), std::string::npos) << help;
  EXPECT_EQ(out_of({"help", "run"}), help);
  EXPECT_EQ(out_of({"help"}), out_of({"--help"}));
  refused({"help", "rum"}, {"did you mean \"run\"?"});
}

TEST_F(TextCommands, ManualAndCompletionsKnowEveryOption) {
  const std::string page = out_of({"man", "run"});
  EXPECT_EQ(page.find(".TH COTERIE-RUN 1"), 0u);
  std::filesystem::create_directories(*folder / "man");
  out_of({"man", "-o", file("man")});
  for (const char* name : {"coterie.1", "coterie-run.1", "coterie-tokenizer-train.1"})
    EXPECT_TRUE(std::filesystem::exists(*folder / "man" / name)) << name;
  const std::string bash = out_of({"completions", "bash"}), zsh = out_of({"completions", "zsh"}),
                    fish = out_of({"completions", "fish"});
  for (const char* option : {"top-k", "n-predict", "jsonl", "experts-per-token"}) {
    EXPECT_NE(bash.find(std::string("--") + option), std::string::npos) << option;
    EXPECT_NE(zsh.find(std::string("'--") + option + "["), std::string::npos) << option;
    EXPECT_NE(fish.find(std::string(" -l ") + option), std::string::npos) << option;
  }
  refused({"completions", "tcsh"}, {"tcsh", "bash, zsh, fish"});
  // What bash makes of it.
  folder->write("coterie.bash", bash);
  const std::string script =
      ". '" + file("coterie.bash") +
      "'; COMP_WORDS=(coterie run --prec); COMP_CWORD=2; _coterie; echo \"${COMPREPLY[*]}\"; "
      "COMP_WORDS=(coterie run --precision f); COMP_CWORD=3; _coterie; echo \"${COMPREPLY[*]}\"; "
      "COMP_WORDS=(coterie detok); COMP_CWORD=1; _coterie; echo \"${COMPREPLY[*]}\"";
  folder->write("try.sh", script);
  ASSERT_EQ(std::system(("bash '" + file("try.sh") + "' >'" + file("tried") + "' 2>&1").c_str()), 0);
  EXPECT_EQ(bytes_of(file("tried")), "--precision\nfast f32\ndetokenize\n");
}

}  // namespace
}  // namespace coterie::cli
