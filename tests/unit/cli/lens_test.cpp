// Commands that look at experts: trace, lens, eval --silence and --each-expert, run --experts=live.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "support/places.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

const std::string kModel = tests::source_folder() + "/../models/coterie-small.gguf";
const std::string kMasc = tests::source_folder() + "/../examples/masc";

struct LensCommands : testing::Test {
  LensCommands() {
    std::ofstream(file("text.txt")) << "The old man went to the market, and the dog, who hadn't eaten, followed him.\n";
  }
  std::string file(const std::string& name) const { return (folder / name).string(); }
  static std::string out_of(const Words& arguments, const test::Surroundings& with = {}) {
    const test::Outcome outcome = test::coterie(arguments, with);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  }
  static void refused(const Words& arguments, const Words& words) {
    const test::Outcome outcome = test::coterie(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    for (const std::string& word : words)
      EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in " << outcome.err;
  }
  /// The layers of the model that have routers, and how many experts each has, as a trace says.
  struct Routers {
    std::vector<int32_t> layers, experts;
  };
  Routers routers() const {
    out_of({"trace", kModel, "--text", file("text.txt"), "-o", file("routers.safetensors")});
    const auto source = checkpoint::open_safetensors(file("routers.safetensors"));
    const auto list = [&](const char* name) {
      std::vector<int32_t> values(source->find(name)->bytes.size() / sizeof(int32_t));
      std::memcpy(values.data(), source->find(name)->bytes.data(), values.size() * sizeof(int32_t));
      return values;
    };
    return {list("layers"), list("width")};
  }
  TempFolder folder;
};

TEST_F(LensCommands, ATraceIsReplayedToTheBit) {
  const base::Json written = base::parse_json(
      out_of({"trace", kModel, "--text", file("text.txt"), "-o", file("t.safetensors"), "--json"}), "stdout");
  EXPECT_GT(written["tokens"].get<int64_t>(), 15);
  EXPECT_EQ(written["bytes"].get<int64_t>(), static_cast<int64_t>(std::filesystem::file_size(file("t.safetensors"))));
  const std::string said = out_of({"trace", kModel, "--replay", file("t.safetensors")});
  EXPECT_NE(said.find("the same logits to the bit"), std::string::npos) << said;
  // Seven experts a token are not what was recorded with the model's own number.
  const base::Json other = base::parse_json(
      out_of({"trace", kModel, "--replay", file("t.safetensors"), "--experts-per-token", "7", "--json"}), "stdout");
  EXPECT_LT(other["rows_equal_to_the_bit"].get<int64_t>(), other["tokens"].get<int64_t>());
  EXPECT_NE(other["cross_entropy"], other["cross_entropy_replayed"]);

  refused({"trace", kModel, "-o", file("x.safetensors")}, {"--text"});
  refused({"trace", kModel, "--text", file("text.txt")}, {"--output"});
  refused({"trace", kModel, "--text", file("text.txt"), "-o", file("t.safetensors")}, {"already", "--force"});
  refused({"trace", kModel, "--replay", file("t.safetensors"), "--text", file("text.txt")}, {"--replay"});
  refused({"trace", kModel, "--replay", kModel}, {"safetensors"});
  EXPECT_FALSE(std::filesystem::exists(file("x.safetensors")));
}

TEST_F(LensCommands, APageOfATaggedCorpus) {
  const std::string said =
      out_of({"lens", kModel, "--tagged", kMasc, "-o", file("r.html"), "--tokens", "3000", "--permutations", "3"});
  EXPECT_NE(said.find("part of speech"), std::string::npos) << said;
  std::ostringstream page;
  page << std::ifstream(file("r.html")).rdbuf();
  EXPECT_EQ(page.str().rfind("<!doctype html>", 0), 0u);
  // Nothing of it comes from elsewhere; what stands in the texts that it quotes is data.
  const std::string head = page.str().substr(0, page.str().find("<script id=\"data\""));
  EXPECT_LT(head.size(), page.str().size());
  for (const char* outside : {"http:", "https:", "src=", "<link", "url(", "@import"})
    EXPECT_EQ(head.find(outside), std::string::npos) << outside;
  const base::Json study = base::read_json(file("r.json"));
  EXPECT_EQ(study["documents"], 18);
  EXPECT_LE(study["tokens"].get<int64_t>(), 3000);
  EXPECT_EQ(study["layers"].size(), routers().layers.size());
  for (const base::Json& layer : study["layers"])
    for (const char* name : {"token", "part of speech", "position", "genre", "document"})
      EXPECT_LT(std::abs(layer["information"][name]["normalised"].get<double>()), 1) << name;
  refused({"lens", kModel, "-o", file("r2.html")}, {"--tagged or --text"});
  refused({"lens", kModel, "--text", file("text.txt"), "-o", file("r.html")}, {"already", "--force"});
  refused({"lens", kModel, "--tagged", file("text.txt"), "-o", file("r2.html")}, {"line 1", "word_TAG"});
  std::ofstream(file("empty.txt"));
  refused({"lens", kModel, "--text", file("empty.txt"), "-o", file("r2.html")}, {"empty.txt", "0 tokens"});
  refused({"lens", kModel, "--text", file("text.txt"), "-o", file("r2.html"), "--seed", "-1"}, {"--seed"});
  // One short text: no error can be told, and that is said.
  const test::Outcome brief = test::coterie({"lens", kModel, "--text", file("text.txt"), "-o", file("brief.html")});
  EXPECT_NE(brief.out.find("± –"), std::string::npos) << brief.out;
  EXPECT_NE(brief.err.find("are few"), std::string::npos) << brief.err;
  EXPECT_NE(brief.err.find("one document"), std::string::npos) << brief.err;
  EXPECT_TRUE(base::read_json(file("brief.json"))["layers"][0]["information"]["token"]["standard_error"].is_null());
  std::filesystem::create_directory(file("folder"));
  refused({"lens", kModel, "--text", file("text.txt"), "-o", file("folder")}, {"is a folder"});
  EXPECT_FALSE(std::filesystem::exists(file("folder.json"))) << "neither without the other";
  EXPECT_FALSE(std::filesystem::exists(file("r2.html")));
}

TEST_F(LensCommands, WhatASilencedExpertCosts) {
  const auto loss = [&](const Words& more) {
    Words words = {"eval", kModel, "--text", file("text.txt"), "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return base::parse_json(out_of(words), "stdout")["cross_entropy"].get<double>();
  };
  const Routers model = routers();
  const size_t at = model.layers.size() / 2,
               skipped =
                   std::accumulate(model.experts.begin(), model.experts.begin() + static_cast<int64_t>(at), size_t{0});
  const std::string first = std::to_string(model.layers.front()), middle = std::to_string(model.layers[at]);
  const double with = loss({}), without = loss({"--silence", first + ":1", "--silence", middle + ":3,4"});
  EXPECT_NE(with, without);
  const base::Json each = base::parse_json(
      out_of({"eval", kModel, "--text", file("text.txt"), "--each-expert", "--json"}), "stdout")["experts"];
  ASSERT_EQ(each.size(), std::accumulate(model.experts.begin(), model.experts.end(), size_t{0}));
  const base::Json& one = each[skipped + 3];
  EXPECT_EQ(one["layer"], model.layers[at]);
  EXPECT_EQ(one["expert"], 3);
  EXPECT_NEAR(one["cost"].get<double>(), loss({"--silence", middle + ":3"}) - with, 1e-9);
  // Whom no token went to is missed by nobody, but for rounding.
  for (const base::Json& expert : each)
    EXPECT_TRUE(expert["share"].get<double>() > 0 || std::abs(expert["cost"].get<double>()) < 1e-4);

  const std::string beyond = std::to_string(model.layers.back() + 1), none = std::to_string(model.experts.front());
  refused({"eval", kModel, "--text", file("text.txt"), "--silence", beyond + ":0"},
          {"layer " + beyond, "to " + std::to_string(model.layers.back()) + " have"});
  refused({"eval", kModel, "--text", file("text.txt"), "--silence", first + ":" + none},
          {"--silence", "expert " + none});
  refused({"eval", kModel, "--text", file("text.txt"), "--silence", "one"}, {"--silence", "LAYER:EXPERT"});
  refused({"eval", kModel, "--text", file("text.txt"), "--silence", first + ":1", "--each-expert"}, {"--each-expert"});
}

TEST_F(LensCommands, TheLossOfEachPredictionIsWritten) {
  const Words words = {"eval", kModel, "--text", file("text.txt"), "--window", "12", "--json", "--losses"};
  Words with = words, without = words;
  with.push_back(file("with.safetensors"));
  without.insert(without.end(),
                 {file("without.safetensors"), "--silence", std::to_string(routers().layers.front()) + ":1"});
  const base::Json whole = base::parse_json(out_of(with), "stdout");
  out_of(without);
  const auto values = [&](const std::string& name, const char* tensor, auto of) {
    const auto source = checkpoint::open_safetensors(file(name));
    const auto bytes = source->find(tensor)->bytes;
    std::vector<decltype(of)> list(bytes.size() / sizeof(of));
    std::memcpy(list.data(), bytes.data(), bytes.size());
    return list;
  };
  const auto loss = values("with.safetensors", "loss", 0.0F);
  ASSERT_EQ(std::ssize(loss), whole["predictions"].get<int64_t>());
  double sum = 0;
  for (const float each : loss) sum += static_cast<double>(each);
  EXPECT_NEAR(sum / static_cast<double>(loss.size()), whole["cross_entropy"].get<double>(), 1e-6);
  const auto ids = values("with.safetensors", "ids", 0), before = values("with.safetensors", "before", 0);
  const auto sequence = values("with.safetensors", "sequence", 0), position = values("with.safetensors", "position", 0);
  for (size_t i = 1; i < ids.size(); ++i) {
    if (sequence[i] != sequence[i - 1]) continue;
    EXPECT_EQ(before[i], ids[i - 1]);
    EXPECT_EQ(position[i], position[i - 1] + 1);
  }
  EXPECT_GT(sequence.back(), 0);
  EXPECT_EQ(values("without.safetensors", "ids", 0), ids) << "the same predictions";
  EXPECT_NE(values("without.safetensors", "loss", 0.0F), loss);

  refused(with, {"already", "--force"});
  with.push_back("--force");
  out_of(with);
  refused({"eval", kModel, "--text", file("text.txt"), "--force"}, {"--losses"});
  refused({"eval", kModel, "--text", file("text.txt"), "--each-expert", "--losses", file("x")}, {"--losses"});
  EXPECT_FALSE(std::filesystem::exists(file("x")));
}

TEST_F(LensCommands, TheStripHasALineForEachToken) {
  const Words words = {"run", kModel, "-p", "The old man", "-n", "6", "--greedy", "--ignore-eos", "-q"};
  Words live = words;
  live.push_back("--experts=live");
  const std::string strip = out_of(live);
  int64_t lines = 0;
  std::istringstream in(strip);
  for (std::string line; std::getline(in, line);) lines += line.find(" │") != std::string::npos;
  EXPECT_EQ(lines, 1 + 1 + 6) << strip;  // the layers, the prompt's last token, six more
  EXPECT_EQ(strip.find('\033'), std::string::npos) << "no colours where it is no terminal";
  EXPECT_NE(strip.find("Experts used"), std::string::npos);
  // The option takes no word after it, so the model's name may follow.
  EXPECT_NE(out_of({"run", "--experts", kModel, "-p", "The old man", "-n", "2", "-q"}).find("Experts used"),
            std::string::npos);
  refused({"run", kModel, "-p", "x", "--experts=never"}, {"--experts"});
  refused({"run", kModel, "-p", "x", "--experts=live", "--json"}, {"--experts"});
}

TEST_F(LensCommands, ADenseModelHasNothingToLookAt) {
  const std::string recipe = folder.write("dense.yaml", R"(
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 1,
           num_key_value_heads: 1, max_position_embeddings: 128, rms_norm_eps: 1e-5, rope_theta: 10000.0,
           tie_word_embeddings: true}
tokenizer: {kind: bytes}
data: {files: text.txt, validation: 0}
training: {sequence: 32, batch: 1, steps: 1, learning_rate: 1e-2}
)");
  out_of({"train", recipe, "-o", file("run")});
  const std::string dense = file("run/checkpoints/step-0000001");
  for (const Words& command : {Words{"lens", dense, "--text", file("text.txt"), "-o", file("x.html")},
                               Words{"trace", dense, "--text", file("text.txt"), "-o", file("x.safetensors")},
                               Words{"eval", dense, "--text", file("text.txt"), "--each-expert"},
                               Words{"eval", dense, "--text", file("text.txt"), "--silence", "0:1"}})
    refused(command, {"dense"});
  EXPECT_FALSE(std::filesystem::exists(file("x.html")) || std::filesystem::exists(file("x.safetensors")));
}

}  // namespace
}  // namespace coterie::cli
