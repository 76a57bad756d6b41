// What a user can get wrong at the command line: exit code 2, one message that says what, nothing on standard output.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "checkpoint/tensor_sink.h"
#include "support/places.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

struct BadInput : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf");
  }
  static void TearDownTestSuite() { delete folder; }

  static std::string file(const std::string& name) { return (*folder / name).string(); }
  static std::string tiny() { return file("tiny.gguf"); }
  static std::string fixture(const std::string& name) { return runtime::test::fixture(name); }
  static std::string bytes_of(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  static std::string write(const std::string& name, const std::string& bytes) {
    return folder->write(name, bytes).string();
  }
  static std::string write_ids(const std::string& name, tensor::Shape shape, std::vector<int64_t> ids,
                               tensor::DType dtype = tensor::DType::i64, const std::string& tensor = "input_ids") {
    const checkpoint::TensorToWrite ids_tensor = {tensor, dtype, std::move(shape),
                                                  [&](const auto& out) { out(std::as_bytes(std::span(ids))); }};
    checkpoint::write_safetensors(*folder / name, {&ids_tensor, 1});
    return file(name);
  }

  static void refused(const Words& arguments, const Words& words, const test::Surroundings& with = {}) {
    const test::Outcome outcome = test::coterie(arguments, with);
    std::string command = "coterie";
    for (const std::string& argument : arguments) command += " " + argument;
    EXPECT_EQ(outcome.code, 2) << command << "\n" << outcome.err;
    EXPECT_EQ(outcome.out, "") << command;
    EXPECT_TRUE(outcome.err.starts_with("coterie: error: ")) << command << "\n" << outcome.err;
    EXPECT_EQ(outcome.err.find("coterie: error:"), outcome.err.rfind("coterie: error:"))
        << "one message: " << outcome.err;
    for (const std::string& word : words)
      EXPECT_NE(outcome.err.find(word), std::string::npos) << command << "\nlacks \"" << word << "\": " << outcome.err;
  }

  static TempFolder* folder;
};
TempFolder* BadInput::folder = nullptr;

TEST_F(BadInput, Usage) {
  refused({"frobnicate"}, {"frobnicate"});
  refused({"run"}, {"MODEL"});
  refused({"run", tiny(), "-p", "x", "--frobnicate"}, {"--frobnicate"});
  refused({"run", tiny()}, {"--prompt"});
  refused({"run", tiny(), "-p", "x", "--file", "y"}, {"--file", "--prompt"});
  refused({"run", tiny(), "-p", "x", "--temperature", "hot"}, {"--temperature", "hot"});
  refused({"run", tiny(), "-p", "x", "--greedy", "--temperature", "1"}, {"--greedy", "--temperature"});
  refused({"run", tiny(), "-p", "x", "--precision", "f64"}, {"--precision", "f64"});
  refused({"run", tiny(), "-p", "x", "--cache-type", "q4_0"}, {"--cache-type", "q8_0"});
  refused({"run", tiny(), "-p", "x", "--threads", "0"}, {"--threads"});
  refused({"run", tiny(), "-p", "x", "--context", "0"}, {"--context"});
  refused({"run", tiny(), "-p", "x", "--system", "y"}, {"--system", "--chat"});
  refused({"bench"}, {"MODEL", "--shape"});
  refused({"bench", tiny(), "--shape", "mixtral-8x7b"}, {"--shape", "MODEL"});
  refused({"bench", tiny(), "--quant", "q4_k"}, {"--quant", "--shape"});
  refused({"logits", tiny(), "-o", "x"}, {"--ids"});
  refused({"bench", "--shape", "mixtral-8x7b", "--tokens", "1"}, {"bench has no option --tokens"});
}

// Before a server listens, not when somebody asks for what is not there.
TEST_F(BadInput, Serve) {
  refused({"serve", file("absent")}, {"absent", "no such file"});
  refused({"serve", tiny(), "--cache-dir-size", "5G"}, {"--cache-dir-size needs --cache-dir"});
  refused({"serve", tiny(), "--adapters", "p=" + file("absent")}, {"absent", "adapter_config.json"});
  refused({"serve", tiny(), "--adapters", "p=" + file("") + ":0.5"}, {"adapter_config.json"});
  refused({"serve", "a=" + tiny(), "--model", "b=" + file("absent")}, {"absent"});
  std::filesystem::create_directory(file("empty"));
  refused({"serve", "a=" + tiny(), "--model", "b=" + file("empty")}, {file("empty")});
  refused({"serve", tiny(), "--models-memory", "1M", "--cache-memory", "8M"}, {"--models-memory", "1.0 MB", "tiny"});
  refused({"serve", tiny(), "--max-wait", "-1e300"}, {"--max-wait: is -1e300, expected a number of at least 0"});
  refused({"serve", tiny(), "--write-timeout", "inf"}, {"--write-timeout: is inf, expected a number above 0"});
}

// What a format is read in is not always what it can be written in.
TEST_F(BadInput, FormatsThatAreNotWritten) {
  for (const char* word : {"q4_k_x", "iq2_xs", "fp8_64"}) {
    const test::Outcome outcome = test::coterie({"convert", tiny(), "-o", file("new.gguf"), "--to", word});
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find("formats are f32"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("iq2_xxs"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("int4_64"), std::string::npos) << outcome.err;
  }
}

TEST_F(BadInput, SamplingOptionsOutOfRange) {
  const auto option = [](const std::string& name, const std::string& value) {
    refused({"run", tiny(), "-p", "x", name, value}, {name, value});
  };
  option("--temperature", "-1");
  option("--top-k", "-3");
  option("--top-p", "1.5");
  option("--min-p", "-0.5");
  option("--typical", "0");
  option("--repeat-penalty", "0");
  option("--repeat-last-n", "-2");
  option("--tokens", "-5");
  option("--logit-bias", "12");
  option("--logit-bias", "x=1");
  option("--logit-bias", "3=much");
  refused({"run", tiny(), "-p", "x", "--logit-bias", "259=1"}, {"--logit-bias", "259", "vocabulary"});
  refused({"run", tiny(), "-p", "x", "--stop", ""}, {"--stop"});
  const auto together = [](std::vector<std::string> options, const std::string& name, const std::string& word) {
    options.insert(options.begin(), {"run", tiny(), "-p", "x"});
    refused(options, {name, word});
  };
  together({"--xtc-probability", "2"}, "--xtc-probability", "0 to 1");
  together({"--xtc-probability", "0.5", "--greedy"}, "--xtc-probability", "temperature of 0");
  together({"--xtc-threshold", "0.2"}, "--xtc-threshold", "--xtc-probability");
  together({"--dry-base", "2"}, "--dry-base", "--dry-multiplier");
  together({"--dry-multiplier", "1", "--dry-base", "0.5"}, "--dry-base", "at least 1");
  together({"--dry-multiplier", "1", "--dry-sequence-breaker", ""}, "--dry-sequence-breaker", "empty");
  together({"--dynatemp-exp", "2"}, "--dynatemp-exp", "--dynatemp-range");
  together({"--mirostat", "1"}, "--mirostat", "Mirostat 2.0");
  together({"--mirostat-lr", "0.2"}, "--mirostat-lr", "--mirostat");
  together({"--mirostat", "2", "--top-k", "20"}, "--top-k", "Mirostat");
  together({"--mirostat", "2", "--top-nsigma", "1"}, "--top-nsigma", "Mirostat");
}

TEST_F(BadInput, RotaryScaling) {
  const auto rope = [](std::vector<std::string> options, std::vector<std::string> words) {
    options.insert(options.begin(), {"run", tiny(), "-p", "x"});
    refused(options, words);
  };
  rope({"--context", "100000"}, {"--context", "--rope-scaling"});
  rope({"--context", "100000", "--rope-scale", "2"}, {"--context", "--rope-scaling"});
  rope({"--rope-scaling", "stretch"}, {"--rope-scaling", "yarn"});
  rope({"--rope-scaling", "yarn"}, {"--rope-scale", "yarn"});
  rope({"--rope-scaling", "none", "--rope-scale", "2"}, {"--rope-scale", "none"});
  rope({"--rope-scaling", "longrope"}, {"--rope-scaling", "search"});
  rope({"--rope-scale", "0.5"}, {"--rope-scale", "at least 1"});
  rope({"--rope-freq-scale", "2"}, {"--rope-freq-scale", "at most 1"});
  rope({"--rope-freq-scale", "0.5", "--rope-scale", "2"}, {"--rope-freq-scale", "--rope-scale"});
  rope({"--rope-freq-base", "0"}, {"--rope-freq-base", "above 1"});
  rope({"--rope-scale", "2", "--yarn-beta-fast", "8"}, {"--yarn-beta-fast", "linear"});
}

TEST_F(BadInput, Routing) {
  refused({"run", tiny(), "-p", "x", "--experts-per-token", "9"}, {"experts"});
  refused({"run", tiny(), "-p", "x", "--experts-per-token", "0"}, {"experts"});
  refused({"run", tiny(), "-p", "x", "--router", "random"}, {"--router", "sample:T"});
  refused({"run", tiny(), "-p", "x", "--router", "sample:0"}, {"--router", "sample:T"});
  refused({"run", tiny(), "-p", "x", "--router", "sample:1x"}, {"--router", "sample:T"});
  refused({"run", tiny(), "-p", "x", "--router", "noise"}, {"--router", "no noise"});
  refused({"run", tiny(), "-p", "x", "--router", "jitter"}, {"--router", "jitter:0.01"});
  refused({"run", tiny(), "-p", "x", "--router", "jitter:2"}, {"--router", "jitter"});
  refused({"run", tiny(), "-p", "x", "--router", "capacity"}, {"--router", "capacity:1.25"});
  refused({"run", tiny(), "-p", "x", "--router", "capacity:1:best"}, {"--router", "next-best"});
  refused({"run", tiny(), "-p", "x", "--router", "sample:1,"}, {"--router", "rule"});
}

TEST_F(BadInput, Convert) {
  const std::string model = fixture("mixtral");
  const auto convert = [&](const Words& more, const Words& words) {
    Words arguments = {"convert", model, "-o", file("x.gguf")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    refused(arguments, words);
    EXPECT_FALSE(std::filesystem::exists(file("x.gguf")));
  };
  refused({"convert", model}, {"--output"});
  refused({"convert", model, "-o", file("x.bin")}, {"x.bin", ".gguf"});
  refused({"convert", tiny(), "-o", tiny()}, {"tiny.gguf", "never overwritten"});
  refused({"convert", fixture("zamba"), "-o", file("x.gguf")}, {"zamba"});
  convert({"--to", "q9_9"}, {"--to", "q9_9", "formats are"});
  convert({"--at", "experts"}, {"--at", "PLACE=TYPE"});
  convert({"--at", "expert=q4_k"}, {"--at", "experts"});
  convert({"--at", "router=q4_0"}, {"router", "8 bits"});
  convert({"--at", "norms=f16"}, {"norms"});
  convert({"--at", "experts=q4_k", "--at", "experts=q8_0"}, {"experts", "twice"});
  // Missing folders are made, and nothing is left of those where it fails.
  write("file", "");
  EXPECT_EQ(test::coterie({"convert", model, "-o", file("file/x.gguf")}).code, 1);
  EXPECT_EQ(test::coterie({"convert", model, "-o", file("new/folder/x.gguf")}).code, 0);
  EXPECT_EQ(test::coterie({"convert", model, "-o", file("other/x.gguf")}, {.largest_file = 100}).code, 1);
  EXPECT_FALSE(std::filesystem::exists(file("other")));
  convert({"--to", "q4_k_m"}, {"--to", "q4_k_m", "preset", "quantize --to q4_k_m"});
  convert({"--to", "i32"}, {"--to", "i32", "not a format of weights"});
}

TEST_F(BadInput, ModelsThatAreNone) {
  refused({"inspect", file("absent")}, {"absent"});
  std::filesystem::create_directories(*folder / "hollow");
  refused({"inspect", file("hollow")}, {"hollow", "config.json"});
  refused({"inspect", write("empty.gguf", "")}, {"empty.gguf"});
  refused({"inspect", write("text.gguf", std::string(1000, 'x'))}, {"text.gguf"});
  const std::string whole = bytes_of(fixture("qwen3-moe/gguf-mixed") + "/model.gguf");
  for (const size_t size : {size_t{3}, size_t{100}, size_t{1000}, whole.size() / 2, whole.size() - 1})
    refused({"inspect", write("cut.gguf", whole.substr(0, size))}, {"cut.gguf"});
  write("cut/config.json", bytes_of(fixture("mixtral") + "/config.json"));
  const std::string weights = bytes_of(fixture("mixtral") + "/model.safetensors");
  for (const size_t size : {size_t{0}, size_t{7}, size_t{100}, weights.size() / 2, weights.size() - 1}) {
    write("cut/model.safetensors", weights.substr(0, size));
    refused({"run", file("cut"), "-p", "x"}, {"model.safetensors"});
  }
  write("stranger/config.json", R"({"model_type": "frobnet"})");
  refused({"inspect", file("stranger")}, {"frobnet", "mixtral"});
  write("broken/config.json", "{\"model_type\": ");
  refused({"inspect", file("broken")}, {"config.json"});
}

TEST_F(BadInput, CommandsThatNeedWeightsRefuseAConfigAlone) {
  const std::string config = fixture("mixtral") + "/config.json";
  write("alone/config.json", bytes_of(config));
  refused({"run", file("alone/config.json"), "-p", "x"}, {"weights"});
  refused({"bench", file("alone")}, {"weights"});
}

TEST_F(BadInput, UnknownConfigKeysUnderStrict) {
  std::string config = bytes_of(fixture("mixtral") + "/config.json");
  config.insert(1, R"("frobnicate": true,)");
  write("keys/config.json", config);
  const test::Outcome warned = test::coterie({"inspect", file("keys")});
  EXPECT_EQ(warned.code, 0) << warned.err;
  EXPECT_NE(warned.err.find("frobnicate"), std::string::npos) << warned.err;
  refused({"inspect", file("keys"), "--strict"}, {"frobnicate"});
}

TEST_F(BadInput, Prompts) {
  refused({"run", tiny(), "-p", ""}, {"prompt", "empty"});
  refused({"run", tiny(), "--file", write("empty.txt", "")}, {"prompt", "empty"});
  refused({"run", tiny(), "-p", "@" + file("empty.txt")}, {"prompt", "empty"});
  refused({"run", tiny(), "--file", file("absent.txt")}, {"absent.txt"});
  refused({"run", tiny(), "-p", std::string(300, 'x')}, {"300 tokens", "context of 256"});
  refused({"run", tiny(), "-p", std::string(30, 'x'), "--context", "20"}, {"30 tokens", "context of 20", "256"});
  refused({"run", tiny(), "-p", "x", "--context", "300"}, {"--context", "300", "256"});
  refused({"run", fixture("mixtral"), "-p", "x"}, {"tokenizer.json"});
  refused({"chat", fixture("mixtral")}, {"tokenizer.json"});
  refused({"run", tiny(), "--chat", "--chat-template", write("bad.jinja", "{% for %}"), "-p", "x"}, {"bad.jinja"});
}

TEST_F(BadInput, Ids) {
  const std::string model = fixture("mixtral"), out = file("out.safetensors");
  const auto ids = [&](const std::string& path, const Words& words) {
    refused({"logits", model, "--ids", path, "-o", out}, words);
    EXPECT_FALSE(std::filesystem::exists(out));
  };
  ids(file("absent.safetensors"), {"absent.safetensors"});
  ids(write_ids("high.safetensors", {1, 2}, {3, 160}), {"160", "[0, 1]", "vocabulary of 160"});
  ids(write_ids("low.safetensors", {1, 2}, {-1, 3}), {"-1", "[0, 0]"});
  ids(write_ids("flat.safetensors", {2}, {1, 2}), {"input_ids", "[B, T]"});
  ids(write_ids("none.safetensors", {1, 0}, {}), {"input_ids", "empty"});
  ids(write_ids("floats.safetensors", {1, 4}, {1, 2}, tensor::DType::f32), {"f32", "i64"});
  ids(write_ids("named.safetensors", {1, 2}, {1, 2}, tensor::DType::i64, "ids"), {"input_ids"});
  ids(write_ids("long.safetensors", {1, 257}, std::vector<int64_t>(257, 5)), {"257", "256"});
  const std::string four = write_ids("four.safetensors", {1, 4}, {1, 2, 3, 4});
  refused({"logits", model, "--ids", four, "-o", out, "--greedy", "3"}, {"--greedy", "8"});
}

TEST_F(BadInput, Benches) {
  refused({"bench", "--shape", "frob-9b"}, {"frob-9b", "mixtral-8x7b"});
  refused({"bench", "--shape", "nowhere/config.json"}, {"nowhere/config.json"});
  refused({"bench", "--shape", "olmoe-1b-7b", "--layers", "17"}, {"--layers", "17", "16"});
  refused({"bench", "--shape", "olmoe-1b-7b", "--quant", "q9_z"}, {"q9_z"});
  refused({"bench", "--shape", "olmoe-1b-7b", "--quant", "i64"}, {"i64"});
  refused({"bench", tiny(), "--prompt", "257"}, {"257", "256"});
  refused({"bench", tiny(), "--prompt", "0", "--generate", "0"}, {"--prompt", "--generate"});
  refused({"bench", "--shape", "mixtral-8x22b", "--quant", "f32"}, {"GB"});
  refused({"inspect", tiny(), "--dtype", "q9_z"}, {"q9_z"});
  refused({"inspect", tiny(), "--dtype", "i64"}, {"--dtype", "i64"});
  refused({"inspect", tiny(), "--context", "300"}, {"--context", "300"});
}

TEST_F(BadInput, InstructionSets) {
  test::Surroundings bogus;
  bogus.variables["COTERIE_ISA"] = "bogus";
  refused({"info"}, {"COTERIE_ISA", "bogus", "scalar"}, bogus);
  refused({"run", tiny(), "-p", "x"}, {"COTERIE_ISA", "bogus"}, bogus);
}

TEST_F(BadInput, AFullDiskIsNoSuccess) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  const std::string command = tests::build_folder() + "/coterie inspect " + tiny() + " >/dev/full 2>/dev/null";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
}

}  // namespace
}  // namespace coterie::cli
