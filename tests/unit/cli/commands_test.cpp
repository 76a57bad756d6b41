// The commands as a user or a script meets them.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <regex>
#include <set>
#include <sstream>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "support/places.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

struct Commands : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf");
    ::setenv("XDG_CACHE_HOME", folder->path().c_str(), 1);
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string file(const std::string& name) { return (*folder / name).string(); }
  static std::string tiny() { return file("tiny.gguf"); }
  static base::Json json_of(const test::Outcome& outcome) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return base::parse_json(outcome.out, "stdout");
  }
  static std::vector<float> floats(const checkpoint::TensorInfo& tensor) {
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
  static TempFolder* folder;
};
TempFolder* Commands::folder = nullptr;

TEST_F(Commands, VersionAndHelp) {
  EXPECT_TRUE(std::regex_match(test::coterie({"--version"}).out, std::regex("coterie \\d+\\.\\d+\\.\\d+\n")));
  const test::Outcome bare = test::coterie({});
  EXPECT_EQ(bare.code, 2);
  std::set<std::string> commands;
  std::istringstream list(bare.err.substr(bare.err.find("\nCommands:\n") + 11));
  std::smatch command;
  for (std::string line; std::getline(list, line) && !line.empty();)
    if (std::regex_search(line, command, std::regex("^  ([a-z][a-z-]*)"))) commands.insert(command[1]);
  for (const char* known : {"run", "chat", "inspect", "train", "convert", "serve", "man"})
    EXPECT_TRUE(commands.contains(known)) << known << " in " << bare.err;
  for (const std::string& each : commands) {
    const test::Outcome help = test::coterie({each, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("Examples:"), std::string::npos) << each;
    EXPECT_NE(help.out.find("coterie " + each), std::string::npos) << each;
  }
}

TEST_F(Commands, RunStreamsAndEndsWithStatistics) {
  const test::Outcome outcome = test::coterie({"run", tiny(), "-p", "hello", "-n", "12", "--seed", "3"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
  EXPECT_TRUE(std::regex_search(
      outcome.err, std::regex("prompt 5 tokens, [0-9.]+ t/s · generated \\d+ tokens, [0-9.]+ t/s · .* · seed 3\n")))
      << outcome.err;
  EXPECT_EQ(outcome.err.find('\033'), std::string::npos) << "no colours where there is no terminal";
  EXPECT_EQ(test::coterie({"run", tiny(), "-p", "hello", "-n", "12", "--seed", "3"}).out, outcome.out);
  EXPECT_NE(test::coterie({"run", tiny(), "-p", "hello", "-n", "12", "--seed", "4"}).out, outcome.out);
  EXPECT_EQ(test::coterie({"run", tiny(), "-p", "hello", "-n", "12", "--seed", "3", "-q"}).err, "");
  folder->write("prompt.txt", "hello");
  EXPECT_EQ(test::coterie({"run", tiny(), "--file", file("prompt.txt"), "-n", "12", "--seed", "3"}).out, outcome.out);
  EXPECT_EQ(test::coterie({"run", tiny(), "-p", "@" + file("prompt.txt"), "-n", "12", "--seed", "3"}).out, outcome.out);
  EXPECT_EQ(test::coterie({"run", tiny(), "-f", "-", "-n", "12", "--seed", "3"}, {.input = "hello"}).out, outcome.out);
}

TEST_F(Commands, RunShowsTheExpertsItUsed) {
  const std::vector<std::string> run = {"run", tiny(), "-p", "hello", "-n", "5", "--seed", "3", "--experts"};
  const test::Outcome shown = test::coterie(run);
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_NE(shown.out.find("Experts used by 9 tokens"), std::string::npos) << shown.out;
  std::vector<std::string> as_json = run;
  as_json.push_back("--json");
  const base::Json json = json_of(test::coterie(as_json));
  ASSERT_FALSE(json["experts"].empty());
  for (const base::Json& layer : json["experts"]) {
    EXPECT_EQ(layer["tokens"], 9);  // the prompt's 5, and 4 of the answer's: the last is not evaluated
    double sum = 0;
    for (const base::Json& share : layer["shares"]) sum += share.get<double>();
    EXPECT_NEAR(sum, std::round(sum), 1e-9);  // K
    EXPECT_GE(sum, 1);
  }
}

TEST_F(Commands, ConvertWritesAGgufThatTheOthersRead) {
  const std::string out = file("converted.gguf"), folder_of = runtime::test::fixture("mixtral");
  const base::Json said = json_of(test::coterie({"convert", folder_of, "-o", out, "--to", "f16", "--json"}));
  EXPECT_EQ(said["file"], out);
  EXPECT_GT(said["values"]["f16"], said["values"]["f32"]);
  const auto parameters = [&](const std::string& model) {
    return json_of(test::coterie({"inspect", model, "--json"}))["total_parameters"];
  };
  EXPECT_EQ(parameters(out), parameters(folder_of));
  const test::Outcome told = test::coterie({"convert", folder_of, "-o", out, "--force"});
  EXPECT_EQ(told.code, 0) << told.err;
  EXPECT_NE(told.err.find("no tokenizer is written"), std::string::npos) << told.err;
}

TEST_F(Commands, EvalGivesPerplexityWithItsError) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "the quick brown fox ";
  folder->write("eval.txt", text);
  const base::Json whole = json_of(test::coterie({"eval", tiny(), "--text", file("eval.txt"), "--json"}));
  const double loss = whole["cross_entropy"], error = whole["cross_entropy_standard_error"];
  EXPECT_NEAR(whole["perplexity"].get<double>(), std::exp(loss), 1e-9 * std::exp(loss));
  EXPECT_NEAR(whole["perplexity_standard_error"].get<double>(), std::exp(loss) * error, 1e-9 * std::exp(loss));
  EXPECT_GT(error, 0);
  const base::Json some =
      json_of(test::coterie({"eval", tiny(), "--text", file("eval.txt"), "--tokens", "30", "--window", "8", "--json"}));
  EXPECT_EQ(some["tokens"], 30);
  EXPECT_LT(some["predictions"], 30);
  EXPECT_NE(some["cross_entropy"], whole["cross_entropy"]);
  const test::Outcome words = test::coterie({"eval", tiny(), "--text", file("eval.txt")});
  EXPECT_TRUE(std::regex_search(words.out, std::regex("perplexity [0-9.]+ ± [0-9.]+ · \\d+ predictions"))) << words.out;
  folder->write("one.txt", "a");
  EXPECT_EQ(test::coterie({"eval", tiny(), "--text", file("one.txt")}).code, 2);
}

TEST_F(Commands, RunAsJson) {
  const base::Json json = json_of(
      test::coterie({"run", tiny(), "-p", "hello", "-n", "7", "--greedy", "--json", "--logit-bias", "258=-inf"}));
  EXPECT_EQ(json["prompt_tokens"], 5);
  EXPECT_EQ(json["reused_tokens"], 0);
  EXPECT_EQ(json["evaluated_tokens"], 5 + 6) << "the last token is not evaluated";
  EXPECT_EQ(json["generated_tokens"], 7);
  EXPECT_EQ(json["tokens"].size(), 7u);
  EXPECT_EQ(json["finish"], "token limit");
  EXPECT_GT(json["decode_tokens_per_second"], 0);
}

TEST_F(Commands, EveryOptionOfRunChangesWhatItSays) {
  const auto text = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"run", tiny(), "-p", "hello hello", "-n", "24", "--seed", "3", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json_of(test::coterie(arguments))["tokens"];
  };
  const std::vector<std::string> hot = {"--temperature", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0"};
  const auto plain = text(hot);
  // Draws are keyed by position: at a high temperature a small change of the logits changes none.
  const std::vector<std::string> cool = {"--temperature", "0.3", "--top-k", "0", "--top-p", "1", "--min-p", "0"};
  const auto plain_cool = text(cool);
  for (const std::vector<std::string>& option :
       std::vector<std::vector<std::string>>{{"--typical", "0.3"},
                                             {"--repeat-penalty", "8", "--repeat-last-n", "-1"},
                                             {"--presence-penalty", "9"},
                                             {"--frequency-penalty", "9"},
                                             {"--xtc-probability", "1", "--xtc-threshold", "0.003"},
                                             {"--top-nsigma", "0.5"},
                                             {"--dynatemp-range", "3"},
                                             {"--rope-scale", "8"},
                                             {"--rope-scaling", "yarn", "--context", "4096"},
                                             {"--rope-freq-base", "10"},
                                             {"--logit-bias", "97=30"},
                                             {"--experts-per-token", "5"},
                                             {"--router", "sample:4"},
                                             {"--router", "jitter:0.9"},
                                             {"--router", "capacity:0.1,sample:2"}}) {
    std::vector<std::string> with = cool;
    with.insert(with.end(), option.begin(), option.end());
    EXPECT_NE(text(with), plain_cool) << option[0];
  }
  for (const std::vector<std::string>& option :
       std::vector<std::vector<std::string>>{{"--temperature", "0.2", "--top-k", "0", "--top-p", "1", "--min-p", "0"},
                                             {"--temperature", "3", "--top-k", "2", "--top-p", "1", "--min-p", "0"},
                                             {"--temperature", "3", "--top-k", "0", "--top-p", "0.1", "--min-p", "0"},
                                             {"--temperature", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0.9"}})
    EXPECT_NE(text(option), plain) << option[1] << option[3] << option[5] << option[7];
  EXPECT_NE(text({"--temperature", "3", "--mirostat", "2", "--mirostat-ent", "2"}), plain);
  const auto forced = text({"--logit-bias", "98+1000"});
  EXPECT_EQ(forced, base::Json(std::vector<int>(24, 98)));
  EXPECT_NE(text({"--greedy", "--logit-bias", "98+1000", "--dry-multiplier", "5000"}), forced);
}

TEST_F(Commands, RunStopsBeforeAStopString) {
  const std::vector<std::string> arguments = {"run",    tiny(), "-p",           "x",       "-n",
                                              "30",     "-q",   "--greedy",     "--stop",  "bbb",
                                              "--stop", "zz",   "--logit-bias", "98=1000", "--logit-bias"};
  std::vector<std::string> with = arguments;
  with.push_back("97=999");
  const test::Outcome outcome = test::coterie(with);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "\n") << "nothing of bbb is shown";
}

TEST_F(Commands, RunThroughTheChatTemplate) {
  const base::Json chat =
      json_of(test::coterie({"run", tiny(), "--chat", "--system", "be", "-p", "hi", "-n", "1", "--greedy", "--json"}));
  // <start>system\nbe<end>\n<start>user\nhi<end>\n<start>assistant\n, a token a byte.
  EXPECT_EQ(chat["prompt_tokens"], (1 + 7 + 2 + 1 + 1) + (1 + 5 + 2 + 1 + 1) + (1 + 10));
}

TEST_F(Commands, ABrokenPipeIsQuiet) {
  const std::string command = "'" + tests::build_folder() + "/coterie' run '" + tiny() +
                              "' -p hello -n 200 --logit-bias 258=-inf -q 2>'" + file("pipe.err") + "' | head -c 1";
  EXPECT_EQ(WEXITSTATUS(std::system(("(" + command + ") >/dev/null").c_str())), 0);
  EXPECT_EQ(std::filesystem::file_size(file("pipe.err")), 0u);
}

TEST_F(Commands, ChatReadsAPipeAndObeysCommands) {
  test::Surroundings with;
  with.input = "hello\n/save " + file("chat.json") + "\n/reset\nagain\n/load " + file("chat.json") +
               "\nmore\n/help\ntwo \\\nlines\n";
  const test::Outcome outcome = test::coterie({"chat", tiny(), "-n", "5", "--seed", "1"}, with);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("/reset"), std::string::npos);
  EXPECT_NE(outcome.err.find("2 messages saved"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("from the cache"), std::string::npos) << outcome.err;
  const base::Json saved = base::read_json(file("chat.json"));
  ASSERT_EQ(saved["messages"].size(), 2u);
  EXPECT_EQ(saved["messages"][0]["content"], "hello");
  const test::Outcome goes_on =
      test::coterie({"chat", tiny(), "-n", "5", "--load", file("chat.json")}, {.input = "x\n/save " + file("2.json")});
  EXPECT_EQ(goes_on.code, 0) << goes_on.err;
  EXPECT_EQ(base::read_json(file("2.json"))["messages"].size(), 4u);
}

TEST_F(Commands, ChatGoesOnAfterABadLineAndSaysSoInItsCode) {
  const test::Outcome outcome = test::coterie(
      {"chat", tiny(), "-n", "3"},
      {.input = "/frob\n/save\n/load " + file("absent") + "\n" + std::string(300, 'x') + "\nhello\n/quit\nnever\n"});
  EXPECT_EQ(outcome.code, 2);
  for (const char* words : {"/frob: is not a command", "/save: needs", "absent", "do not fit in a context of 256"})
    EXPECT_NE(outcome.err.find(words), std::string::npos) << words << " in " << outcome.err;
  EXPECT_NE(outcome.err.find("generated 3 tokens"), std::string::npos) << outcome.err;
}

TEST_F(Commands, ChatSaysWhenTheContextIsFull) {
  std::string lines;
  for (int i = 0; i < 6; ++i) lines += std::string(40, 'x') + "\n";
  const test::Outcome outcome =
      test::coterie({"chat", tiny(), "-n", "20", "--logit-bias", "258=-inf"}, {.input = lines});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(std::regex_search(outcome.err,
                                std::regex("the context of 256 tokens is full: the oldest \\d messages were dropped")))
      << outcome.err;
}

TEST_F(Commands, CtrlCStopsTheAnswerNotTheChat) {
  runtime::test::write_tiny_gguf(file("long.gguf"), 100000);
  test::Surroundings with;
  with.input = "hello\n/save " + file("stopped.json") + "\n";
  with.interrupt = true;
  const test::Outcome outcome = test::coterie({"chat", file("long.gguf"), "--logit-bias", "258=-inf"}, with);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << outcome.err;
  EXPECT_EQ(base::read_json(file("stopped.json"))["messages"].size(), 2u);
}

TEST_F(Commands, CtrlCEndsARunWithItsCode) {
  runtime::test::write_tiny_gguf(file("long.gguf"), 100000);
  const test::Outcome outcome =
      test::coterie({"run", file("long.gguf"), "-p", "x", "-n", "-1", "--logit-bias", "258=-inf"}, {.interrupt = true});
  EXPECT_EQ(outcome.code, 130);
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << outcome.err;
}

TEST_F(Commands, InspectCountsRecurrentStatesAndSharedBlocks) {
  const base::Json jamba = json_of(test::coterie({"inspect", runtime::test::fixture("jamba"), "--json"}));
  // Three layers of 96 channels: 3 inputs of the convolution and 8 states for each, f32. One layer of attention: 2
  // key-value heads of 12, f16.
  EXPECT_EQ(jamba["state_bytes"], 3 * 96 * (3 + 8) * 4);
  EXPECT_EQ(jamba["cache_bytes_per_token"], 2 * (12 + 12) * 2);
  const test::Outcome words = test::coterie({"inspect", runtime::test::fixture("zamba2") + "/config.json"});
  for (const char* sentence : {"layers 1, 3: begin with one transformer block, stored once", "adapters of rank 8",
                               "attention and SSM", "recurrent state, any length (f32)   ", "Mamba-2: 6 heads of 16"})
    EXPECT_NE(words.out.find(sentence), std::string::npos) << sentence << words.out;
  const test::Outcome mamba = test::coterie({"inspect", runtime::test::fixture("mamba") + "/config.json"});
  EXPECT_NE(mamba.out.find("state space (SSM)"), std::string::npos) << mamba.out;
  EXPECT_EQ(mamba.out.find("cache, each token"), std::string::npos) << mamba.out;
}

TEST_F(Commands, InspectAsJson) {
  const base::Json json = json_of(test::coterie({"inspect", runtime::test::fixture("mixtral"), "--json"}));
  int64_t held = 0, active = 0, in_layers = 0;
  ASSERT_EQ(json["places"].size(), 8u);
  for (const char* place : {"input_embeddings", "mixer", "router", "experts", "shared_experts", "dense_ffn", "norms",
                            "output_embeddings"}) {
    held += json["places"].at(place).get<int64_t>();
    active += json["places_active"].at(place).get<int64_t>();
  }
  for (const base::Json& layer : json["layers"]) in_layers += layer["parameters"].get<int64_t>();
  EXPECT_EQ(json["total_parameters"], held);
  EXPECT_EQ(json["active_parameters"], active);
  EXPECT_EQ(json["places"]["experts"], 2 * 8 * 3 * 72 * 48);
  EXPECT_EQ(json["places_active"]["experts"], 2 * 2 * 3 * 72 * 48);
  EXPECT_EQ(json["places"]["router"], 2 * 8 * 48);
  EXPECT_EQ(in_layers, held - 2 * 160 * 48 - 48);
  EXPECT_EQ(json["bytes"], 4 * held);
  EXPECT_GT(json["expected_resident_bytes"], json["bytes"]);
  EXPECT_GT(json["expected_decode_tokens_per_second"], 0);
}

TEST_F(Commands, InspectWorksOnAConfigAlone) {
  folder->write("alone/config.json", base::read_json(runtime::test::fixture("mixtral") + "/config.json").dump());
  for (const char* path : {"alone", "alone/config.json"}) {
    const base::Json json = json_of(test::coterie({"inspect", file(path), "--json"}));
    EXPECT_EQ(json["places"]["experts"], 2 * 8 * 3 * 72 * 48);
    EXPECT_EQ(json["bytes"], 4 * json["total_parameters"].get<int64_t>()) << "the config says float32";
    EXPECT_EQ(json["file_bytes"], 0);
  }
  const base::Json quantised = json_of(test::coterie({"inspect", file("alone"), "--json", "--dtype", "q8_0"}));
  EXPECT_LT(quantised["bytes"], 2 * quantised["total_parameters"].get<int64_t>());
  const test::Outcome words = test::coterie({"inspect", file("alone"), "--experts-per-token", "3"});
  EXPECT_NE(words.out.find("experts = the 3 largest p; weight = p / sum of the chosen p"), std::string::npos)
      << words.out;
}

TEST_F(Commands, LogitsAreTheReferences) {
  const std::string model = runtime::test::fixture("mixtral");
  const test::Outcome outcome = test::coterie(
      {"logits", model, "--ids", model + "/expected.safetensors", "-o", file("out.safetensors"), "--greedy", "12"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto expected = checkpoint::open_safetensors(model + "/expected.safetensors");
  const auto found = checkpoint::open_safetensors(file("out.safetensors"));
  for (const char* name : {"logits", "loss", "greedy"})
    ASSERT_EQ(found->find(name)->shape, expected->find(name)->shape) << name;
  const auto ours = floats(*found->find("logits")), theirs = floats(*expected->find("logits"));
  for (size_t i = 0; i < ours.size(); ++i) ASSERT_NEAR(ours[i], theirs[i], 1e-4);
  EXPECT_NEAR(floats(*found->find("loss"))[0], floats(*expected->find("loss"))[0], 1e-5 * 6);
  EXPECT_TRUE(std::ranges::equal(found->find("greedy")->bytes, expected->find("greedy")->bytes));
  // What is printed is what is written.
  EXPECT_NE(outcome.err.find(fmt::format("loss {:.4f}", floats(*found->find("loss"))[0])), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("cross-entropy"), std::string::npos) << outcome.err;
}

TEST_F(Commands, BenchWritesNothingThatCannotBeRead) {
  // The first four layers of Jamba have no attention, of which its GGUF takes the sizes.
  const test::Outcome outcome = test::coterie({"bench", "--shape", runtime::test::fixture("jamba") + "/config.json",
                                               "--layers", "1", "--quant", "f16", "--write", file("jamba.gguf")});
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_NE(outcome.err.find("could not be read again"), std::string::npos) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(file("jamba.gguf")));
}

TEST_F(Commands, BenchAsJson) {
  const base::Json json = json_of(
      test::coterie({"bench", tiny(), "--prompt", "32", "--generate", "4", "--batch", "2", "--repeat", "1", "--json"}));
  for (const char* key :
       {"prefill_tokens_per_second", "decode_tokens_per_second", "bandwidth_share", "flops_share", "bytes_per_token"})
    EXPECT_GT(json.at(key), 0) << key;
}

TEST_F(Commands, BenchOfAShapeKeepsItsModel) {
  const test::Outcome outcome =
      test::coterie({"bench", "--shape", "olmoe-1b-7b", "--layers", "1", "--quant", "q8_0", "--prompt", "8",
                     "--generate", "2", "--repeat", "1", "--json", "--write", file("shape.gguf")});
  const base::Json made = json_of(outcome);
  const base::Json read = json_of(test::coterie({"inspect", file("shape.gguf"), "--json"}));
  EXPECT_EQ(read["layers"].size(), 1u);
  EXPECT_EQ(read["places"]["experts"], 64 * 3 * 1024 * 2048);
  EXPECT_GT(made["decode_tokens_per_second"], 0);
}

TEST_F(Commands, InfoExplainsTheKernels) {
  const base::Json json = json_of(test::coterie({"info", "--json"}));
  EXPECT_EQ(json["kernels"].back()["isa"], "scalar");
  EXPECT_GT(json["read_bytes_per_second"], 0);
  test::Surroundings scalar;
  scalar.variables["COTERIE_ISA"] = "scalar";
  const test::Outcome forced = test::coterie({"info", "--kernels"}, scalar);
  EXPECT_NE(forced.out.find("COTERIE_ISA asks for it"), std::string::npos) << forced.out;
  EXPECT_NE(forced.out.find("q4_k"), std::string::npos);
}

TEST_F(Commands, TheExampleOfAWholeModelIsTheEngine) {
  const std::string model = runtime::test::fixture("mixtral");
  const auto expected = checkpoint::open_safetensors(model + "/expected.safetensors");
  const auto& ids = *expected->find("input_ids");
  const auto logits = floats(*expected->find("logits"));
  const size_t length = static_cast<size_t>(ids.shape[1]), vocabulary = 160;
  std::vector<std::string> arguments = {model};
  for (size_t t = 0; t < length; ++t)
    arguments.push_back(std::to_string(reinterpret_cast<const int64_t*>(ids.bytes.data())[t]));
  const test::Outcome outcome = test::run("example_tiny_moe", arguments);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::regex line("id \\d+ \\| layer 0: expert .* \\| layer 1: .* \\| next (\\d+) logit (-?[0-9.]+)");
  size_t t = 0;
  for (std::sregex_iterator found(outcome.out.begin(), outcome.out.end(), line), end; found != end; ++found, ++t) {
    const auto row = std::span(logits).subspan(t * vocabulary, vocabulary);
    const auto best = std::max_element(row.begin(), row.end());
    EXPECT_EQ(std::stoll((*found)[1]), best - row.begin()) << t;
    EXPECT_NEAR(std::stof((*found)[2]), *best, 1e-4) << t;
  }
  EXPECT_EQ(t, length);
}

TEST_F(Commands, TheExampleOfTheLibraryGenerates) {
  const test::Outcome outcome = test::run("example_hello", {tiny(), "hello"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("active per token"), std::string::npos);
  EXPECT_FALSE(outcome.out.empty());
  EXPECT_EQ(test::run("example_hello", {file("absent")}).code, 1);
}

}  // namespace
}  // namespace coterie::cli
