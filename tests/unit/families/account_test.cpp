#include "models/account.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "base/clock.h"
#include "base/json.h"
#include "families/family.h"
#include "families/shapes.h"

namespace coterie::families {

using layers::Place;

namespace {

ModelSpec published(const std::string& name) {
  const std::filesystem::path path =
      std::filesystem::path(COTERIE_TEST_DATA) / "unit" / "families" / "configs" / (name + ".json");
  return read_config(base::read_json(path), path.string(), true);
}

int64_t at(const std::array<int64_t, layers::kPlaces>& counts, Place place) {
  return counts[static_cast<size_t>(place)];
}

TEST(Account, Mixtral8x7B) {
  const models::Account a = account(published("mixtral-8x7b"));
  EXPECT_EQ(a.total(), 46'702'792'704);
  EXPECT_EQ(a.total_active(), 12'879'925'248);
  EXPECT_EQ(at(a.held, Place::experts), 45'097'156'608);
  EXPECT_EQ(at(a.active, Place::experts), 45'097'156'608 / 4);
  EXPECT_EQ(at(a.held, Place::mixer), 1'342'177'280);
  EXPECT_EQ(at(a.held, Place::input_embeddings), 131'072'000);
  EXPECT_EQ(at(a.held, Place::output_embeddings), 131'072'000);
  EXPECT_EQ(at(a.held, Place::router), 32 * 32'768);
  EXPECT_EQ(at(a.held, Place::norms), 266'240);
  EXPECT_EQ(at(a.held, Place::dense_ffn) + at(a.held, Place::shared_experts), 0);
  // 8 KV heads of 128 + 128, two bytes each, 32 layers.
  EXPECT_EQ(a.cache_bytes_per_token, 8 * (128 + 128) * 2 * 32);
}

TEST(Account, OtherPublishedModels) {
  EXPECT_EQ(account(published("mixtral-8x22b")).total(), 140'630'071'296);
  EXPECT_EQ(account(published("mixtral-8x22b")).total_active(), 39'161'468'928);
  EXPECT_EQ(account(published("olmoe-1b-7b")).total(), 6'919'161'856);
  EXPECT_EQ(account(published("olmoe-1b-7b")).total_active(), 1'282'017'280);
  EXPECT_EQ(account(published("smollm2-135m")).total(), 134'515'008);
}

// Summed by hand, tensor by tensor.
TEST(Account, Qwen3_30B_A3B) {
  const int64_t d = 2048, v = 151936, layers = 48, experts = 128, f = 768, heads = 32, kv = 4, head = 128;
  const int64_t attention = 2 * d * heads * head + 2 * d * kv * head, norms = 2 * d + 2 * head;
  const int64_t all = 2 * v * d + d + layers * (attention + norms + experts * d + experts * 3 * d * f);
  const int64_t active = 2 * v * d + d + layers * (attention + norms + experts * d + 8 * 3 * d * f);
  const models::Account a = account(published("qwen3-30b-a3b"));
  EXPECT_EQ(all, 30'532'122'624);
  EXPECT_EQ(a.total(), all);
  EXPECT_EQ(a.total_active(), active);
}

// Totals: transformers 5.23 on the meta device, sum of numel over parameters() of AutoModelForCausalLM.from_config;
// active: the same with the experts' share times K/E. The totals of DeepSeek-V2-Lite and DeepSeek-V2 are half of
// total_size (bf16) in the published model.safetensors.index.json: 31,412,968,448 and 471,482,869,760. Selection biases
// are buffers there, and no parameters here; the layer for multi-token prediction (model.layers.61) is no part of
// either.
TEST(Account, PublishedModelsWithLatentAttentionOrSigmoidRouters) {
  const auto expect = [](const std::string& name, int64_t total, int64_t active, int64_t experts) {
    const models::Account a = account(published(name));
    EXPECT_EQ(a.total(), total) << name;
    EXPECT_EQ(a.total_active(), active) << name;
    EXPECT_EQ(at(a.held, Place::experts), experts) << name;
  };
  expect("deepseek-v2-lite", 15'706'484'224, 2'661'150'208, 14'394'851'328);
  expect("deepseek-v2", 235'741'434'880, 21'375'800'320, 222'717'542'400);
  expect("deepseek-v3", 671'026'404'352, 37'552'282'624, 653'908'770'816);
  expect("glm-4.5-air", 106'852'245'504, 13'424'123'904, 99'656'663'040);
}

TEST(Account, LayersAddUpToTheWhole) {
  for (const std::string& name : shape_names()) {
    const ModelSpec spec = shape(name);
    const models::Account a = account(spec);
    ASSERT_EQ(a.layers.size(), spec.blocks.size());
    int64_t held = at(a.held, Place::input_embeddings) + at(a.held, Place::output_embeddings) + spec.width;
    int64_t active = held;
    for (const models::Account::Layer& layer : a.layers) {
      held = std::accumulate(layer.held.begin(), layer.held.end(), held);
      active = std::accumulate(layer.active.begin(), layer.active.end(), active);
    }
    EXPECT_EQ(held, a.total()) << name;
    EXPECT_EQ(active, a.total_active()) << name;
    EXPECT_EQ(at(a.held, Place::output_embeddings), spec.tied_embeddings ? 0 : spec.vocabulary * spec.width) << name;
  }
}

TEST(Account, TakesWellUnderASecond) {
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& name : shape_names()) account(shape(name));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
}

}  // namespace
}  // namespace coterie::families
