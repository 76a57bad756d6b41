#include "models/account.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "base/clock.h"
#include "base/json.h"
#include "families/family.h"
#include "families/shapes.h"
#include "support/places.h"

namespace coterie::families {

using layers::Place;

namespace {

ModelSpec published(const std::string& name) {
  const std::filesystem::path path =
      std::filesystem::path(tests::source_folder()) / "unit" / "families" / "configs" / (name + ".json");
  return read_config(base::read_json(path), path.string(), true);
}

int64_t at(const std::array<int64_t, layers::kPlaces>& counts, Place place) {
  return counts[static_cast<size_t>(place)];
}

void expect(const std::string& name, int64_t total, int64_t active, int64_t experts) {
  const models::Account a = account(published(name));
  EXPECT_EQ(a.total(), total) << name;
  EXPECT_EQ(a.total_active(), active) << name;
  EXPECT_EQ(at(a.held, Place::experts), experts) << name;
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
  expect("deepseek-v2-lite", 15'706'484'224, 2'661'150'208, 14'394'851'328);
  expect("deepseek-v2", 235'741'434'880, 21'375'800'320, 222'717'542'400);
  expect("deepseek-v3", 671'026'404'352, 37'552'282'624, 653'908'770'816);
  expect("glm-4.5-air", 106'852'245'504, 13'424'123'904, 99'656'663'040);
}

// As above, by transformers 5.24, with the keys that the models' config.json have. JetMoE's attention has experts as
// well, a quarter of which serve a token; they count as attention. Ling's class is not in transformers: its tensors are
// those of sarvam_moe, which was asked. ERNIE's biases of selection are parameters there (1,728) and none here.
TEST(Account, FamiliesOf2026) {
  expect("glm-4.7-flash", 29'943'390'976, 3'896'763'136, 27'783'069'696);
  expect("kimi-k2", 1'026'408'209'408, 32'861'477'888, 1'014'686'023'680);
  expect("minimax-m2", 228'689'748'992, 11'030'537'216, 224'680'476'672);
  expect("mellum2-12b-a2.5b", 12'149'923'072, 2'439'060'736, 11'098'128'384);
  expect("hunyuan-a13b", 80'393'183'232, 12'747'448'320, 77'309'411'328);
  expect("qwen3-vl-30b-a3b", 30'532'122'624, 3'353'032'704, 28'991'029'248);
  expect("llama-4-scout", 107'769'861'120, 17'172'894'720, 96'636'764'160);
  expect("dbrx", 131'596'523'520, 36'469'708'800, 126'835'752'960);
  expect("ling-mini-2.0", 16'255'638'528, 1'432'968'192, 15'300'820'992);
  expect("solar-open-100b", 102'651'793'408, 12'054'827'008, 96'636'764'160);
  expect("flexolmo-7x7b", 33'270'665'216, 24'613'621'760, 30'299'652'096);
  expect("ernie-4.5-21b-a3b", 21'825'436'160, 3'352'148'480, 20'384'317'440);
  expect("jetmoe-8b", 8'522'237'952, 2'331'445'248, 6'643'777'536);
}

// The same for families with parts of their own. A scale for each expert (Gemma 4) is of the router, not of experts;
// layers for multi-token prediction and the tensors of other parts than the text are in neither.
TEST(Account, FamiliesWithPartsOfTheirOwn) {
  expect("qwen3.5-35b-a3b", 34'660'610'688, 3'454'988'928, 32'212'254'720);
  expect("qwen3-next-80b-a3b", 79'674'391'296, 3'874'929'408, 77'309'411'328);
  expect("gemma-4-26b-a4b", 25'233'141'760, 3'822'530'560, 22'837'985'280);
  expect("nemotron-3-nano-30b-a3b", 31'577'937'344, 3'580'073'408, 29'374'808'064);
  expect("lfm2-8b-a1b", 8'339'929'856, 1'557'740'288, 7'751'073'792);
  expect("kimi-linear-48b-a3b", 49'122'675'072, 3'484'453'248, 47'110'422'528);
  expect("ling-3.0-flash", 124'414'191'072, 5'505'672'672, 120'795'955'200);
  expect("deepseek-v3.2", 671'877'929'216, 38'403'807'488, 653'908'770'816);
  expect("glm-5", 743'911'199'232, 41'784'709'632, 724'775'731'200);
  expect("mimo-v2-flash", 308'778'768'832, 15'445'924'288, 302'795'194'368);
  expect("minimax-text-01", 456'089'655'296, 48'403'306'496, 434'865'438'720);
  expect("k-exaone-236b-a23b", 236'571'150'336, 23'668'279'296, 227'096'395'776);
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
