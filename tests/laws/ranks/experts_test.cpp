#include <algorithm>
#include <map>

#include "base/rng.h"
#include "families/adapter/adapter.h"
#include "laws/ranks/cluster.h"
#include "layers/moe/router_hook.h"
#include "layers/observer.h"
#include "models/owned_experts.h"

// --split experts: a model whose experts several ranks own gives the bits of one rank, whatever their number, for every
// family, batch and cut.
namespace coterie::laws {
namespace {

class Ranks : public Law {
 protected:
  tiny::Model model = model_of(GetParam());
  int64_t vocabulary = model.decoder->spec().vocabulary;
};

/// What routers decided: experts and tokens, by layer.
struct Plans final : layers::Observer {
  void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix) override {
    all.emplace_back(layer, plan.expert_offset, plan.slot_token, plan.slot_weight, plan.token_slot);
  }
  std::vector<std::tuple<int64_t, std::vector<int32_t>, std::vector<int32_t>, std::vector<float>, std::vector<int32_t>>>
      all;
};

TEST_P(Ranks, GiveTheBitsOfOne) {
  const std::vector<int32_t> ids = some_ids(21, vocabulary, 3);
  const int64_t cuts[] = {9, 1, 1, 10};
  Plans alone, together;
  Runner one(GetParam(), *model.decoder);
  one.observer = &alone;
  const std::vector<float> expected = one.pieces(ids, cuts);

  Cluster cluster(GetParam(), model, size_of(GetParam()));
  Runner many(GetParam(), cluster, 1);
  many.observer = &together;
  expect_same_bits(many.pieces(ids, cuts), expected, std::to_string(cluster.ranks().size()) + " ranks");
  EXPECT_EQ(together.all, alone.all);
  EXPECT_GT(cluster.ranks().traffic().payload_bytes, 0);
}

TEST_P(Ranks, GiveTheBitsOfOneToEverySequenceOfABatch) { expect_the_bits_of_one_in_a_batch(GetParam(), model); }

// Long prompts are divided: rows of one sequence on several ranks, whose keys and values, or recurrent states, go from
// one to the next. Then tokens come one by one, and another long piece.
TEST_P(Ranks, DividePromptsAndGiveTheBitsOfOne) {
  const int size = size_of(GetParam());
  const int64_t length = std::min<int64_t>(model.decoder->spec().context, 32 * size + 2 + 64);
  const std::vector<int32_t> ids = some_ids(length, vocabulary, 11);
  const int64_t cuts[] = {5, 32 * size, 1, length - 32 * size - 6};
  if (cuts[3] < 1) GTEST_SKIP() << "a context of " << length;
  Runner one(GetParam(), *model.decoder);
  const std::vector<float> expected = one.pieces(ids, cuts);
  Cluster cluster(GetParam(), model, size);
  Runner many(GetParam(), cluster, 1);
  expect_same_bits(many.pieces(ids, cuts), expected, std::to_string(size) + " ranks");
  EXPECT_EQ(cluster.model().divided_steps() > 0, cluster.model().may_divide());
}

// Experts placed by use, with copies of the most used: who computes what changes no bit.
TEST_P(Ranks, GiveTheBitsOfOneWhereverExpertsAre) {
  const models::ModelSpec& spec = model.decoder->spec();
  std::vector<std::vector<int64_t>> counts(spec.blocks.size());
  base::Rng rng(5);
  for (size_t layer = 0; layer < counts.size(); ++layer)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[layer].ffn))
      for (int64_t e = 0; e < moe->experts_with_weights(); ++e) counts[layer].push_back(rng.below(100));
  const int size = size_of(GetParam());
  runtime::ModelRanks::Options options;
  options.placement = std::make_shared<const runtime::ExpertPlacement>(size, counts, 1);
  const std::vector<int32_t> ids = some_ids(std::min<int64_t>(spec.context, 32 * size + 9), vocabulary, 12);
  const int64_t cuts[] = {std::ssize(ids) - 2, 1, 1};
  Runner one(GetParam(), *model.decoder);
  const std::vector<float> expected = one.pieces(ids, cuts);
  Cluster cluster(GetParam(), model, size, {}, options);
  Runner many(GetParam(), cluster, 1);
  expect_same_bits(many.pieces(ids, cuts), expected, std::to_string(size) + " ranks");
}

INSTANTIATE_TEST_SUITE_P(Families, Ranks, testing::ValuesIn(with_experts(cases())), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, Ranks, testing::ValuesIn(with_experts(other_cases())), name_of);

const Case kMixtral{"mixtral", "scalar", ops::Precision::fast, tensor::DType::f32};

/// Every token to experts of one rank.
struct OnlyOneRank final : layers::RouterHook {
  OnlyOneRank(int rank, int ranks) : rank_(rank), placement_{ranks} {}
  void logits(int64_t, int64_t, tensor::Matrix logits) const override {
    for (int64_t t = 0; t < logits.rows; ++t)
      for (int64_t e = 0; e < logits.cols; ++e)
        if (!placement_.owns(rank_, e, logits.cols)) logits.row(t)[e] = -INFINITY;
  }
  int rank_;
  comm::Placement placement_;
};

TEST(RanksOfOneProcess, OneMayGetAllTokensAndTheOthersNone) {
  const tiny::Model model = model_of(kMixtral);
  const std::vector<int32_t> ids = some_ids(19, model.decoder->spec().vocabulary, 6);
  for (const int chosen : {0, 1}) {
    const OnlyOneRank hook(chosen, 2);
    Runner one(kMixtral, *model.decoder);
    one.hook = &hook;
    Cluster cluster(kMixtral, model, 2);
    Runner many(kMixtral, cluster, 1);
    many.hook = &hook;
    expect_same_bits(many.whole(ids), one.whole(ids), "all to rank " + std::to_string(chosen));
    EXPECT_EQ(cluster.ranks().traffic().messages > 0, chosen == 1);
  }
}

TEST(RanksOfOneProcess, MayBeMoreThanThereAreExpertsAndOne) {
  const tiny::Model model = model_of(kMixtral);
  const std::vector<int32_t> ids = some_ids(11, model.decoder->spec().vocabulary, 7);
  const std::vector<float> expected = Runner(kMixtral, *model.decoder).whole(ids);
  const auto& moe = std::get<layers::MoeSpec>(model.decoder->spec().blocks.front().ffn);
  for (const int size : {1, 3, static_cast<int>(moe.router.experts) + 2}) {
    Cluster cluster(kMixtral, model, size);
    expect_same_bits(Runner(kMixtral, cluster, 1).whole(ids), expected, std::to_string(size) + " ranks");
  }
}

TEST(RanksOfOneProcess, GiveTheSameBitsWhateverArrivesFirst) {
  const tiny::Model model = model_of(kMixtral);
  const std::vector<int32_t> ids = some_ids(11, model.decoder->spec().vocabulary, 8);
  const std::vector<float> expected = Runner(kMixtral, *model.decoder).whole(ids);
  for (const uint64_t seed : {1, 2, 3}) {
    Cluster cluster(kMixtral, model, 4, {.latency = 300e-6, .rate = 100e6, .seed = seed});
    expect_same_bits(Runner(kMixtral, cluster, 1).whole(ids), expected, "seed " + std::to_string(seed));
  }
}

/// What a plan implies for rank 0 of some.
struct Implied final : layers::Observer {
  Implied(int ranks, int64_t width_, kernels::ActivationForm form_) : placement{ranks}, width(width_), form(form_) {}
  void plan(int64_t, const ops::RoutingPlan& plan, tensor::ConstMatrix) override {
    for (int r = 1; r < placement.ranks; ++r) {
      std::map<int32_t, int> tokens;
      for (int64_t e = placement.first(r, plan.experts()); e < placement.end(r, plan.experts()); ++e)
        for (const int32_t t : plan.tokens_of(e)) ++tokens[t];
      int64_t slots = 0, experts = 0;
      for (const auto& [token, count] : tokens) slots += count;
      if (slots == 0) continue;
      for (int64_t e = placement.first(r, plan.experts()); e < placement.end(r, plan.experts()); ++e)
        experts += plan.tokens_of(e).empty() ? 0 : 1;
      ++messages;
      asked += runtime::rows_payload(std::ssize(tokens), width, slots, experts, form);
      // A row to each rank, ids, and 40 bytes that say how many of each.
      rows += std::ssize(tokens) * ops::row_bytes(form, width);
      answered += slots * width * 4;
    }
  }
  comm::Placement placement;
  int64_t width;
  kernels::ActivationForm form;
  int64_t messages = 0, asked = 0, rows = 0, answered = 0;
};

// Rows as the experts' kernels read them: quantised, where weights are.
void expect_to_send_what_the_plan_implies(const Case& c, kernels::ActivationForm form) {
  const tiny::Model model = model_of(c);
  const int64_t width = model.decoder->spec().width;
  ASSERT_EQ(width % 2, 0) << "padding would have to be counted";
  Cluster cluster(c, model, 3);
  Implied implied(3, width, form);
  Runner many(c, cluster, 1);
  many.observer = &implied;
  many.whole(some_ids(17, model.decoder->spec().vocabulary, 9));
  ASSERT_GT(implied.messages, 0);
  const comm::Traffic& sent = cluster.ranks().traffic();
  EXPECT_EQ(sent.messages, implied.messages);
  EXPECT_EQ(sent.header_bytes, 32 * implied.messages);
  EXPECT_EQ(sent.payload_bytes, implied.asked);
  EXPECT_GT(implied.asked, implied.rows);
  int64_t answered = 0;
  for (int r = 1; r < 3; ++r) answered += cluster.ranks(r).traffic().payload_bytes;
  EXPECT_EQ(answered, implied.answered);
}

TEST(RanksOfOneProcess, SendWhatThePlanImplies) {
  Case exact = kMixtral;
  exact.precision = ops::Precision::f32;
  expect_to_send_what_the_plan_implies(exact, kernels::ActivationForm::floats);
  expect_to_send_what_the_plan_implies(kMixtral, kernels::ActivationForm::blocks32);
}

// An adapter's LoRA reads floats: rows travel as such, few and many.
TEST(RanksOfOneProcess, GiveTheBitsOfOneUnderAnAdapterOfExperts) {
  const tiny::Model model = model_of(kMixtral);
  families::LoraSpec spec;
  spec.targets = {"all"}, spec.rank = 3, spec.alpha = 5;
  families::Adapter adapter = families::Adapter::fresh(*model.decoder, spec, 1);
  base::Rng rng(11);
  for (const models::Parameter& p : adapter.parameters())
    if (p.path.ends_with(".lora_b"))
      for (int64_t i = 0; i < p.count; ++i) p.values[i] = 0.3f * rng.normal();
  const std::vector<int32_t> ids = some_ids(80, model.decoder->spec().vocabulary, 13);
  const int64_t cuts[] = {70, 1, 9};
  const std::vector<float> without = Runner(kMixtral, *model.decoder).pieces(ids, cuts);
  Cluster cluster(kMixtral, model, 2);
  for (int rank = 0; rank < 2; ++rank) adapter.attach_to(cluster.decoder(rank));
  const std::vector<float> many = Runner(kMixtral, cluster, 1).pieces(ids, cuts);
  adapter.attach_to(*model.decoder);
  expect_same_bits(many, Runner(kMixtral, *model.decoder).pieces(ids, cuts), "2 ranks with an adapter");
  EXPECT_NE(many, without);
  EXPECT_GT(cluster.model().divided_steps(), 0u);
}

TEST(ExpertPlacement, SpreadsUseAndKeepsTheMostUsedEverywhere) {
  const runtime::ExpertPlacement placement(2, {{100, 1, 1, 90, 5, 4, 3, 2}, {}}, 1);
  for (const int rank : {0, 1}) {
    EXPECT_TRUE(placement.owns(rank, 0, 0, 8));
    EXPECT_EQ(placement.computes(rank, 0, 0, 8), rank);
  }
  // 90 on one rank; 5, 4, 3 and 2 on the other, until it has its four.
  EXPECT_NE(placement.computes(0, 0, 3, 8), placement.computes(0, 0, 4, 8));
  EXPECT_EQ(placement.computes(0, 0, 4, 8), placement.computes(1, 0, 5, 8));
  int owned[2] = {};
  for (int64_t e = 1; e < 8; ++e) ++owned[placement.computes(0, 0, e, 8)];
  EXPECT_EQ(std::abs(owned[0] - owned[1]), 1);
  // A layer that nothing is known of: neighbours.
  EXPECT_EQ(placement.computes(0, 1, 3, 8), 0);
  EXPECT_EQ(placement.computes(0, 1, 4, 8), 1);
}

TEST(RanksOfOneProcess, ReportWhoFailedAndGoOn) {
  const tiny::Model model = model_of(kMixtral);
  for (const int64_t length : {13, 120}) {  // 120 are divided
    const std::vector<int32_t> ids = some_ids(length, model.decoder->spec().vocabulary, 10);
    const OnlyOneRank hook(0, 3);
    Runner one(kMixtral, *model.decoder);
    one.hook = &hook;
    Cluster cluster(kMixtral, model, 3);
    Runner many(kMixtral, cluster, 1);
    // Rank 2 has lost its experts.
    models::own_experts(cluster.decoder(2), [](int64_t, int64_t) { return false; });
    try {
      many.whole(ids);
      FAIL() << "rank 2 has failed";
    } catch (const base::Error& error) {
      EXPECT_NE(std::string(error.what()).find("rank 2: "), std::string::npos) << error.what();
    }
    many.arena.reset();
    many.hook = &hook;
    expect_same_bits(many.whole(ids), one.whole(ids), "after a failure");
  }
}

}  // namespace
}  // namespace coterie::laws
