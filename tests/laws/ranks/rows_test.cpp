#include <algorithm>

#include "base/error.h"
#include "laws/ranks/cluster.h"
#include "layers/moe/router_hook.h"
#include "layers/observer.h"

// --split rows: a model of which each rank computes some outputs of every weight, and some attention heads, gives the
// bits of one rank, whatever their number, for every family, batch and cut.
namespace coterie::laws {
namespace {

const runtime::ModelRanks::Options kRows{runtime::Split::rows, 0, {}};

class RowRanks : public Law {
 protected:
  tiny::Model model = model_of(GetParam());
  int64_t vocabulary = model.decoder->spec().vocabulary;
};

TEST_P(RowRanks, GiveTheBitsOfOne) {
  const std::vector<int32_t> ids = some_ids(21, vocabulary, 3);
  const int64_t cuts[] = {9, 1, 1, 10};
  Runner one(GetParam(), *model.decoder);
  const std::vector<float> expected = one.pieces(ids, cuts);
  Cluster cluster(GetParam(), model, size_of(GetParam()), {}, kRows);
  Runner many(GetParam(), cluster, 1);
  expect_same_bits(many.pieces(ids, cuts), expected, std::to_string(cluster.ranks().size()) + " ranks");
  EXPECT_GT(cluster.model().rows().exchanges(), 2) << "nothing was divided";
}

TEST_P(RowRanks, GiveTheBitsOfOneToEverySequenceOfABatch) {
  expect_the_bits_of_one_in_a_batch(GetParam(), model, kRows);
}

INSTANTIATE_TEST_SUITE_P(Families, RowRanks, testing::ValuesIn(cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, RowRanks, testing::ValuesIn(other_cases()), name_of);

const Case kQwen3Moe{"qwen3_moe", "scalar", ops::Precision::fast, tensor::DType::f32};

TEST(RowRanksOfOneProcess, GiveTheSameBitsWhateverArrivesFirst) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(11, model.decoder->spec().vocabulary, 8);
  const std::vector<float> expected = Runner(kQwen3Moe, *model.decoder).whole(ids);
  for (const uint64_t seed : {1, 2, 3}) {
    Cluster cluster(kQwen3Moe, model, 4, {.latency = 300e-6, .rate = 100e6, .seed = seed}, kRows);
    expect_same_bits(Runner(kQwen3Moe, cluster, 1).whole(ids), expected, "seed " + std::to_string(seed));
  }
}

TEST(RowRanksOfOneProcess, ComputeSmallWeightsEach) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(11, model.decoder->spec().vocabulary, 8);
  const std::vector<float> expected = Runner(kQwen3Moe, *model.decoder).whole(ids);
  Cluster cluster(kQwen3Moe, model, 2, {}, {runtime::Split::rows, int64_t{1} << 40, {}});
  expect_same_bits(Runner(kQwen3Moe, cluster, 1).whole(ids), expected, "nothing is divided");
  EXPECT_EQ(cluster.model().rows().exchanges(), 0);
}

/// A hook on rank 0 alone: the others learn what it chose.
struct AwayFromTheBest final : layers::RouterHook {
  void logits(int64_t, int64_t, tensor::Matrix logits) const override {
    for (int64_t t = 0; t < logits.rows; ++t) std::reverse(logits.row(t), logits.row(t) + logits.cols);
  }
};

TEST(RowRanksOfOneProcess, FollowAHookOnRoutersOfRankZero) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(13, model.decoder->spec().vocabulary, 9);
  const AwayFromTheBest hook;
  Runner one(kQwen3Moe, *model.decoder);
  const std::vector<float> without = one.whole(ids);
  one.hook = &hook;
  const std::vector<float> expected = one.whole(ids);
  ASSERT_NE(expected, without);
  Cluster cluster(kQwen3Moe, model, 3, {}, kRows);
  Runner many(kQwen3Moe, cluster, 1);
  many.hook = &hook;
  expect_same_bits(many.whole(ids), expected, "with a hook");
}

/// Rank 1's part of y for a weight of so many outputs.
int64_t part_of_rank_1(const runtime::RankRows& rows, int64_t tokens, int64_t outputs) {
  return rows.payload(1, tokens, outputs, 1);
}

// llama, 2 layers: q, k and v together, heads, o, gate-up, down, and the logits to rank 0.
TEST(RowRanksOfOneProcess, SendWhatTheDivisionImplies) {
  const Case dense{"llama", "scalar", ops::Precision::f32, tensor::DType::f32};
  const tiny::Model model = model_of(dense);
  const models::ModelSpec& spec = model.decoder->spec();
  constexpr int64_t kTokens = 5;
  Cluster cluster(dense, model, 3, {}, kRows);
  Runner(dense, cluster, 1).whole(some_ids(kTokens, spec.vocabulary, 9));
  const runtime::RankRows& rows = cluster.model().rows();
  int64_t messages = 0, bytes = 0;
  const auto exchange = [&](std::initializer_list<int64_t> outputs, int64_t to) {
    messages += to;
    for (const int64_t count : outputs) bytes += to * part_of_rank_1(rows, kTokens, count);
  };
  for (const models::BlockSpec& block : spec.blocks) {
    const auto& attention = std::get<layers::AttentionSpec>(block.mixer);
    const auto& ffn = std::get<layers::DenseFfnSpec>(block.ffn);
    const int64_t kv = attention.kv_heads * attention.head_dim;
    exchange({attention.heads * attention.head_dim, kv, kv}, 2);
    const int64_t group = attention.heads / attention.kv_heads;
    const int64_t unit = (attention.kv_heads >= 3 ? group : 1) * attention.head_dim;
    if (attention.heads >= 3)
      messages += 2, bytes += 2 * rows.payload(1, kTokens, attention.heads * attention.head_dim, unit);
    exchange({spec.width}, 2);
    exchange({ffn.hidden}, 2);
    exchange({spec.width}, 2);
  }
  exchange({spec.vocabulary}, 1);
  const comm::Traffic& sent = cluster.ranks(1).traffic();
  EXPECT_EQ(sent.messages, messages);
  EXPECT_EQ(sent.header_bytes, 32 * messages);
  EXPECT_EQ(sent.payload_bytes, bytes);
}

TEST(RowRanksOfOneProcess, ReportWhoFailedAndGoOn) {
  const tiny::Model model = model_of(kQwen3Moe);
  const std::vector<int32_t> ids = some_ids(13, model.decoder->spec().vocabulary, 10);
  const std::vector<float> expected = Runner(kQwen3Moe, *model.decoder).whole(ids);
  Cluster cluster(kQwen3Moe, model, 3, {}, kRows);
  Runner many(kQwen3Moe, cluster, 1);
  std::vector<int32_t> outside = ids;
  outside.back() = static_cast<int32_t>(model.decoder->spec().vocabulary);
  EXPECT_THROW(many.whole(outside), base::Error);
  many.arena.reset();
  expect_same_bits(many.whole(ids), expected, "after a failure");
}

}  // namespace
}  // namespace coterie::laws
