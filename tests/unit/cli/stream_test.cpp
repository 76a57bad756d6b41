// Commands about models larger than memory: simulate, inspect --memory, bench --routes, --router-spread and --disk.
#include <gtest/gtest.h>

#include <fstream>

#include "base/json.h"
#include "support/places.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

const std::string kRoot = tests::source_folder() + "/../";
const std::string kSmall = kRoot + "models/coterie-small.gguf", kQwen = kRoot + "examples/routes/qwen.jsonl",
                  kConfig = kRoot + "examples/configs/qwen3-30b-a3b.json";

std::string out_of(const Words& arguments) {
  const test::Outcome outcome = test::coterie(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return outcome.out;
}

base::Json json_of(Words arguments) {
  arguments.push_back("--json");
  return base::parse_json(out_of(arguments), "stdout");
}

void refused(const Words& arguments, const Words& words) {
  const test::Outcome outcome = test::coterie(arguments);
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  for (const std::string& word : words)
    EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in " << outcome.err;
}

TEST(SimulateCommand, MoreMemoryHitsMoreAndReadsLess) {
  const base::Json said = json_of({"simulate", kQwen, "--memory", "20%,60%,1.8G", "--disk", "1.1G", "--speed", "20"});
  EXPECT_EQ(said["experts_per_token"], 6);
  EXPECT_EQ(said["warm_up"], 52);
  ASSERT_EQ(said["memory"].size(), 3u);
  const base::Json &least = said["memory"][0], &most = said["memory"][1], &bytes = said["memory"][2];
  EXPECT_EQ(least["slots"], 1228);
  EXPECT_LT(least["decode"]["hit_share"], most["decode"]["hit_share"]);
  EXPECT_GT(least["missed_bytes_per_token"], most["missed_bytes_per_token"]);
  EXPECT_LT(least["tokens_per_second"], most["tokens_per_second"]);
  EXPECT_LT(most["tokens_per_second"], 20);
  const base::Json fast = json_of({"simulate", kQwen, "--memory", "20%", "--disk", "100G", "--speed", "20"});
  EXPECT_NEAR(fast["memory"][0]["tokens_per_second"].get<double>(), 20, 1e-9) << "no disk makes a model faster";
  EXPECT_EQ(bytes["slots"], static_cast<int64_t>(1.8e9 / ((2654208 + 3059712) / 2)));
  const std::string text = out_of({"simulate", kQwen, "--warm-up", "0"});
  EXPECT_NE(text.find("48 layers with 128 experts, 6 a token; 156 tokens"), std::string::npos) << text;
  EXPECT_NE(text.find("hits of prompts"), std::string::npos) << text;
}

TEST(SimulateCommand, ReadsWhatTraceWrites) {
  TempFolder folder;
  std::ofstream(folder / "text.txt")
      << "The old man went to the market, and the dog, who hadn't eaten, followed him.\n";
  const std::string trace = (folder / "t.safetensors").string();
  out_of({"trace", kSmall, "--text", (folder / "text.txt").string(), "-o", trace});
  const base::Json said = json_of({"simulate", trace, "--warm-up", "0", "--memory", "100%", "--expert-bytes", "100k"});
  const auto& decode = said["memory"][0]["decode"];
  EXPECT_EQ(decode["hits"].get<int64_t>() + decode["misses"].get<int64_t>(), said["tokens"].get<int64_t>() * 5 * 4);
  EXPECT_EQ(said["expert_bytes"], 100000);
  refused({"simulate", trace, "--memory", "1G"}, {"--expert-bytes"});
  refused({"simulate", trace, "--disk", "1G"}, {"--expert-bytes"});
}

TEST(InspectMemory, TheLeastMemoryIsTheEngines) {
  const base::Json said = json_of({"inspect", kSmall, "--memory", "1G", "--threads", "2"});
  const auto least = said["larger_than_memory"]["least_memory"].get<int64_t>();
  const auto bench = [&](int64_t memory) {
    return test::coterie(
        {"bench", kSmall, "--memory", std::to_string(memory), "--generate", "2", "--repeat", "1", "--threads", "2"});
  };
  constexpr int64_t kRounding = 4 << 20;  // of what the process holds: this one may have grown meanwhile
  const test::Outcome runs = bench(least + kRounding), refuses = bench(least - kRounding - 1);
  EXPECT_EQ(runs.code, 0) << runs.err;  // with the prompt that nobody asked for, and the context that fits
  EXPECT_NE(refuses.code, 0);
  EXPECT_NE(refuses.err.find("takes at least"), std::string::npos) << refuses.err;
  refused({"inspect", kSmall, "--memory", ""}, {"--memory", "8G"});
  refused({"bench", kSmall, "--memory", ""}, {"--memory", "8G"});
}

TEST(SimulateCommand, WrongUsageIsRefused) {
  refused({"simulate"}, {"TRACE"});
  refused({"simulate", kQwen, "--memory", "0%"}, {"--memory", "40%"});
  refused({"simulate", kQwen, "--memory", "8X"}, {"--memory", "8G"});
  refused({"simulate", kQwen, "--memory", "0.01%"}, {"12"});
  refused({"simulate", kQwen, "--speed", "20"}, {"--disk"});
  refused({"simulate", kQwen, "--disk", "fast"}, {"--disk", "1.1G"});
  refused({"simulate", kSmall}, {"safetensors"});
}

TEST(InspectMemory, SaysHowManyExpertsStayAndWhatThatGives) {
  const base::Json said = json_of({"inspect", kConfig, "--dtype", "q4_k", "--memory", "8G", "--disk", "1.1G"});
  const base::Json& stream = said["larger_than_memory"];
  EXPECT_EQ(stream["experts"], 48 * 128);
  EXPECT_EQ(stream["experts_of_token"], 48 * 8);
  EXPECT_NEAR(stream["expert_bytes"].get<double>(), 2.654e6, 1e4);
  EXPECT_TRUE(stream["runs"]);
  EXPECT_FALSE(stream["all_fits"]);
  const double room = 8e9 - stream["others"].get<double>();
  EXPECT_LE(stream["slot_bytes"], room);
  EXPECT_GE(stream["slot_bytes"], room - 8e9 / 50 - stream["expert_bytes"].get<double>());  // a 50th: long prompts
  EXPECT_GT(stream["prompt_tokens"], 512);
  // (1 - 0.9) of 384 experts of 2.65 MB at 1.1 GB/s
  EXPECT_NEAR(stream["tokens_per_second_at_hit_share"]["0.9"].get<double>(), 10.8, 0.1);
  EXPECT_GT(stream["fitted"]["hit_share"], 0.7);
  const std::string least = out_of({"inspect", kConfig, "--dtype", "q4_k", "--memory", "500M"});
  EXPECT_NE(least.find("too few to run"), std::string::npos) << least;
  const std::string all = out_of({"inspect", kConfig, "--dtype", "q4_k", "--memory", "64G"});
  EXPECT_NE(all.find("nothing is read from the disk"), std::string::npos) << all;
  EXPECT_NE(out_of({"inspect", kConfig, "--memory", "20G"}).find("(assumed"), std::string::npos);
  refused({"inspect", kConfig, "--disk", "1G"}, {"--memory"});
  refused({"inspect", kRoot + "examples/configs/mistral-7b.json", "--memory", "4G"}, {"no routed experts"});
}

TEST(BenchRoutes, TokensGoWhereTheyAreSent) {
  const base::Json fed = json_of({"bench", kSmall, "--routes", "fitted:olmoe", "--batch", "2", "--prompt", "8",
                                  "--generate", "16", "--repeat", "1", "--threads", "1"});
  EXPECT_EQ(fed["routes"], "fitted:olmoe");
  EXPECT_GT(fed["decode_tokens_per_second"], 0);
  refused({"bench", kSmall, "--routes", kQwen}, {"routes", "128 experts"});
  refused({"bench", kSmall, "--routes", "fitted:gpt"}, {"gpt", "olmoe, qwen3"});
  refused({"bench", "--disk", kSmall, "--prompt", "4"}, {"--disk", "--prompt"});
  refused({"bench", "--disk", kSmall}, {"expected at least"});
  refused({"bench", "--disk", kSmall, "--seconds", "2"}, {"10"});
  refused({"bench", kSmall, "--router-spread", "1"}, {"--shape"});
  const std::string dense = kRoot + "examples/configs/mistral-7b.json";
  refused({"bench", "--shape", dense, "--layers", "1", "--router-spread", "1"}, {"no routers"});
  refused({"bench", "--shape", kConfig, "--layers", "1", "--router-spread", "9"}, {"expected 0 to 4"});
}

}  // namespace
}  // namespace coterie::cli
