#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "laws/ranks/cluster.h"
#include "layers/observer.h"
#include "runtime/ranks/layer_cuts.h"

// --split layers: a model of which each rank has some layers gives the bits of one rank, whatever their number, for
// every family, batch and cut.
namespace coterie::laws {
namespace {

const runtime::ModelRanks::Options kLayers{runtime::Split::layers, 0, {}};

class LayerRanks : public Law {
 protected:
  tiny::Model model = model_of(GetParam());
  int64_t vocabulary = model.decoder->spec().vocabulary;
};

TEST_P(LayerRanks, GiveTheBitsOfOne) {
  const std::vector<int32_t> ids = some_ids(21, vocabulary, 3);
  const int64_t cuts[] = {9, 1, 1, 10};
  Runner one(GetParam(), *model.decoder);
  const std::vector<float> expected = one.pieces(ids, cuts);
  Cluster cluster(GetParam(), model, size_of(GetParam()), {}, kLayers);
  Runner many(GetParam(), cluster, 1);
  expect_same_bits(many.pieces(ids, cuts), expected, std::to_string(cluster.ranks().size()) + " ranks");
  EXPECT_GT(cluster.ranks().traffic().messages, 0) << "rank 0 has all layers";
}

TEST_P(LayerRanks, GiveTheBitsOfOneToEverySequenceOfABatch) {
  expect_the_bits_of_one_in_a_batch(GetParam(), model, kLayers);
}

INSTANTIATE_TEST_SUITE_P(Families, LayerRanks, testing::ValuesIn(cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, LayerRanks, testing::ValuesIn(other_cases()), name_of);

/// What routers decided, by layer, and what the last block left.
struct Plans final : layers::Observer {
  void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) override {
    all.emplace_back(layer, plan.expert_offset, plan.slot_token, plan.slot_weight, plan.token_slot,
                     std::vector<float>(logits.data, logits.data + logits.rows * logits.cols));
  }
  void block(int64_t layer, tensor::ConstMatrix x) override {
    if (layer == last) left.assign(x.data, x.data + x.rows * x.cols);
  }
  int64_t last = 0;
  std::vector<std::tuple<int64_t, std::vector<int32_t>, std::vector<int32_t>, std::vector<float>, std::vector<int32_t>,
                         std::vector<float>>>
      all;
  std::vector<float> left;
};

const Case kQwen3Moe{"qwen3_moe", "scalar", ops::Precision::fast, tensor::DType::f32};

TEST(LayerRanksOfOneProcess, GiveTheSameBitsWhateverArrivesFirst) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(60, model.decoder->spec().vocabulary, 8);
  const std::vector<float> expected = Runner(kQwen3Moe, *model.decoder).whole(ids);
  for (const uint64_t seed : {1, 2, 3}) {
    Cluster cluster(kQwen3Moe, model, 4, {.latency = 300e-6, .rate = 100e6, .seed = seed}, kLayers);
    expect_same_bits(Runner(kQwen3Moe, cluster, 1).whole(ids), expected, "seed " + std::to_string(seed));
    EXPECT_GT(cluster.model().layers()->groups(), 1) << "no two ranks work at once";
  }
}

TEST(LayerRanksOfOneProcess, ShowWhatRoutersDecidedElsewhere) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(9, model.decoder->spec().vocabulary, 8);
  Plans alone, together;
  alone.last = together.last = std::ssize(model.decoder->spec().blocks) - 1;
  Runner one(kQwen3Moe, *model.decoder);
  one.observer = &alone;
  one.whole(ids);
  Cluster cluster(kQwen3Moe, model, 2, {}, kLayers);
  Runner many(kQwen3Moe, cluster, 1);
  many.observer = &together;
  many.whole(ids);
  EXPECT_EQ(together.all, alone.all);
  EXPECT_EQ(together.left, alone.left);
}

// Each hop: the residual stream of the rows, once. What a sequence without a lineage has elsewhere comes back.
TEST(LayerRanksOfOneProcess, SendTheStreamOfEachRowOnce) {
  const tiny::Model model = model_of(kQwen3Moe);
  const models::ModelSpec& spec = model.decoder->spec();
  Cluster cluster(kQwen3Moe, model, 2, {}, kLayers);
  constexpr int64_t kRows = 60;
  Runner(kQwen3Moe, cluster, 1).whole(some_ids(kRows, spec.vocabulary, 8));
  const int64_t groups = cluster.model().layers()->groups();
  const auto cuts = runtime::cut_layers(*model.decoder, 2);
  const int64_t blocks = (kRows + 15) / 16;
  int64_t cache = 0;
  for (int64_t layer = cuts[1].first; layer < cuts[1].end; ++layer)
    cache += blocks * models::cache_block_bytes(spec, tensor::DType::f32)[static_cast<size_t>(layer)];
  const comm::Traffic& sent = cluster.ranks(1).traffic();
  EXPECT_EQ(sent.messages, groups + 1);
  EXPECT_EQ(sent.payload_bytes, kRows * spec.width * 4 + cache);
}

TEST(LayerRanksOfOneProcess, ReportWhoFailedAndGoOn) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(13, model.decoder->spec().vocabulary, 10);
  const std::vector<float> expected = Runner(kQwen3Moe, *model.decoder).whole(ids);
  Cluster cluster(kQwen3Moe, model, 3, {}, kLayers);
  Runner many(kQwen3Moe, cluster, 1);
  std::vector<int32_t> outside = ids;
  outside.back() = static_cast<int32_t>(model.decoder->spec().vocabulary);
  EXPECT_THROW(many.whole(outside), base::Error);
  many.arena.reset();
  expect_same_bits(many.whole(ids), expected, "after a failure");
}

using Spans = std::vector<std::pair<int64_t, int64_t>>;

Spans cut(const std::vector<int64_t>& bytes, int64_t outside, std::vector<char> may_cut, int ranks) {
  Spans spans;
  for (const runtime::LayerSpan& span : runtime::cut_layers(bytes, outside, may_cut, ranks))
    spans.emplace_back(span.first, span.end);
  return spans;
}

TEST(LayerCuts, AreEvenInBytes) {
  EXPECT_EQ(cut({1, 1, 1, 1}, 0, {1, 1, 1, 1}, 2), (Spans{{0, 2}, {2, 4}}));
  EXPECT_EQ(cut({1, 1, 1, 3}, 0, {1, 1, 1, 1}, 2), (Spans{{0, 3}, {3, 4}}));
  EXPECT_EQ(cut({1, 1, 1, 1}, 2, {1, 1, 1, 1}, 2), (Spans{{0, 1}, {1, 4}})) << "rank 0 has the head";
  EXPECT_EQ(cut({1, 1, 1, 1, 1, 1}, 0, {1, 1, 1, 1, 1, 1}, 3), (Spans{{0, 2}, {2, 4}, {4, 6}}));
}

TEST(LayerCuts, LeaveTogetherWhatBelongsTogether) {
  EXPECT_EQ(cut({1, 1, 1, 1}, 0, {1, 1, 0, 1}, 2), (Spans{{0, 3}, {3, 4}}));
  EXPECT_EQ(cut({1, 1}, 0, {1, 0}, 2), (Spans{{0, 2}, {2, 2}})) << "the second rank has none";
}

TEST(LayerCuts, GiveSomeRanksNoneWhereThereAreTooFew) {
  const Spans spans = cut({1, 1}, 0, {1, 1}, 4);
  EXPECT_EQ(spans.front().first, 0);
  EXPECT_EQ(spans.back().second, 2);
  for (size_t r = 1; r < spans.size(); ++r) EXPECT_EQ(spans[r].first, spans[r - 1].second);
}

}  // namespace
}  // namespace coterie::laws
