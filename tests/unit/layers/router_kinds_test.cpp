#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <set>

#include "base/error.h"
#include "layers/moe/balance.h"
#include "layers/moe/routers/balanced_assignment.h"
#include "layers/moe/routers/kind.h"
#include "layers/moe/scores.h"
#include "router_bench.h"

// The rules that look at the batch or at the token itself, each against its definition.
namespace coterie::layers {
namespace {

using Selection = RouterSpec::Selection;

RouterSpec of_kind(Selection selection, int64_t experts, int64_t k) {
  RouterSpec spec{.experts = experts, .experts_per_token = k};
  spec.selection = selection;
  if (selection == Selection::base) spec.score = RouterSpec::Score::sigmoid;
  return spec;
}

TEST(RouterKinds, TheTableIsInTheOrderOfTheirValuesAndEveryNameIsOnce) {
  std::set<std::string_view> names;
  for (const RouterKind* kind : router_kinds()) EXPECT_TRUE(names.insert(kind->name).second);
  EXPECT_EQ(kind_of(Selection::top_k).name, "top_k");
  EXPECT_EQ(kind_of(Selection::sparsemixer).name, "sparsemixer");
  EXPECT_EQ(kind_of(Selection::hash).name, "hash");
  EXPECT_EQ(kind_of(Selection::expert_choice).name, "expert_choice");
  EXPECT_EQ(kind_of(Selection::base).name, "base");
  EXPECT_EQ(kind_of(Selection::soft).name, "soft");
  EXPECT_EQ(kind_of(Selection::sample).name, "sample");
  EXPECT_EQ(kind_of(Selection::sinkhorn).name, "sinkhorn");
  for (const RouterKind* kind : router_kinds())
    EXPECT_EQ(kind->causal, kind->name != "expert_choice" && kind->name != "soft");
}

// What sequences share goes by the key of a rule that draws, and by that of no other: RouterKind::draws has to be true.
TEST(RouterKinds, OutsideOfTrainingTheKeyDecidesWhereARuleDrawsAndNowhereElse) {
  std::vector<float> logits(16);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(3 * i));
  for (size_t k = 0; k < router_kinds().size(); ++k) {
    const RouterKind& kind = *router_kinds()[k];
    if (!kind.choose) continue;
    const RouterSpec spec = of_kind(static_cast<Selection>(k), 16, kind.name == "base" ? 1 : 2);
    std::vector<double> scratch(static_cast<size_t>(choose_scratch(spec)));
    std::set<std::vector<int32_t>> seen;
    for (uint64_t key = 0; key < 64; ++key) {
      std::vector<int32_t> ids(static_cast<size_t>(spec.experts_per_token));
      kind.choose({spec, logits.data(), nullptr, {key, 3, 5, 7}, scratch}, ids.data());
      seen.insert(ids);
    }
    EXPECT_EQ(seen.size() > 1, kind.draws) << kind.name;
  }
}

// A table: the same id goes to the same experts wherever it stands, layers differ, and experts get ids evenly.
TEST(RouterKinds, HashIsATableOfIds) {
  const RouterSpec spec = of_kind(Selection::hash, 8, 2);
  const std::vector<float> logits(8);
  std::vector<double> scratch(static_cast<size_t>(choose_scratch(spec)));
  const auto experts = [&](int32_t id, int64_t layer, int64_t position, uint64_t key) {
    std::vector<int32_t> ids(2);
    std::vector<float> weights(2);
    choose({spec, logits.data(), nullptr, {key, layer, position, id}, scratch}, ids.data(), weights.data());
    return ids;
  };
  std::vector<int64_t> count(8);
  int64_t other_layer = 0;
  for (int32_t id = 0; id < 4000; ++id) {
    const auto found = experts(id, 3, 5, 1);
    EXPECT_NE(found[0], found[1]);
    EXPECT_EQ(experts(id, 3, 17, 2), found);
    other_layer += experts(id, 4, 5, 1) != found;
    for (const int32_t e : found) ++count[static_cast<size_t>(e)];
  }
  EXPECT_GT(other_layer, 3500);
  for (const int64_t c : count) EXPECT_NEAR(static_cast<double>(c), 1000, 5 * std::sqrt(750.0));
}

TEST(RouterKinds, HashSummedHasNoLogitsAndNoTensors) {
  RouterSpec spec = of_kind(Selection::hash, 6, 2);
  spec.combine = RouterSpec::Combine::sum;
  TestRouter r(spec);
  EXPECT_TRUE(r.weights.empty());
  for (const auto& [t, e, w] : slots(r.plan(true))) EXPECT_EQ(w, 1.0f);
  EXPECT_EQ(slots(r.plan(true)), slots(r.plan(false)));
  EXPECT_NO_THROW(check_trainable(spec, {}, "test"));
}

// Every expert takes, of each sequence, the tokens that score highest with it.
TEST(RouterKinds, ExpertsChooseTheirBestTokens) {
  TestRouter r(of_kind(Selection::expert_choice, 6, 2));
  class Watch : public Observer {
   public:
    void routed(const Routed& seen) override {
      logits.assign(seen.logits.data, seen.logits.data + seen.logits.rows * seen.logits.cols);
    }
    std::vector<float> logits;
  } watch;
  for (const bool training : {false, true}) {
    const ops::RoutingPlan plan = r.plan(training, &watch);
    std::vector<double> p(watch.logits.begin(), watch.logits.end());
    for (int64_t t = 0; t < kTokens; ++t) {
      double sum = 0;
      for (int64_t e = 0; e < 6; ++e)
        sum += p[static_cast<size_t>(t * 6 + e)] = std::exp(p[static_cast<size_t>(t * 6 + e)]);
      for (int64_t e = 0; e < 6; ++e) p[static_cast<size_t>(t * 6 + e)] /= sum;
    }
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 9}, {9, kTokens}})
      for (int64_t e = 0; e < 6; ++e) {
        std::vector<std::pair<double, int64_t>> order;
        for (int64_t t = begin; t < end; ++t) order.emplace_back(-p[static_cast<size_t>(t * 6 + e)], t);
        std::sort(order.begin(), order.end());
        order.resize(static_cast<size_t>(((end - begin) * 2 + 5) / 6));
        std::set<int64_t> expected, found;
        for (const auto& [score, t] : order) expected.insert(t);
        for (const int32_t t : plan.tokens_of(e))
          if (t >= begin && t < end) found.insert(t);
        EXPECT_EQ(found, expected) << e;
      }
    for (const auto& [t, e, w] : slots(plan)) EXPECT_NEAR(w, p[static_cast<size_t>(t * 6 + e)], 1e-6);
  }
}

// A sequence's choice is its own: what it is batched with changes nothing.
TEST(RouterKinds, ExpertChoiceGoesBySequence) {
  TestRouter r(of_kind(Selection::expert_choice, 6, 2));
  auto parts = slots(r.plan(false, nullptr, 1, 0, 9));
  const auto rest = slots(r.plan(false, nullptr, 1, 9, kTokens), 9);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(slots(r.plan(false)), parts);
}

// The exact optimum by trying every assignment, with loads that differ by rounding up alone.
TEST(RouterKinds, BalancedAssignmentIsTheBestOne) {
  for (uint64_t key = 0; key < 40; ++key) {
    base::Rng rng(key);
    const int64_t experts = 2 + static_cast<int64_t>(rng.below(2)), tokens = 4 + static_cast<int64_t>(rng.below(4));
    std::vector<float> scores(static_cast<size_t>(tokens * experts));
    for (int64_t i = 0; i < tokens * experts; ++i)
      scores[static_cast<size_t>(i)] = rng.normal() + (i % experts == 0 ? 2.0f : 0.0f);
    const std::vector<int32_t> found = balanced_assignment({scores.data(), tokens, experts});
    const int64_t capacity = (tokens + experts - 1) / experts;
    const auto value = [&](const std::vector<int32_t>& of) {
      std::vector<int64_t> load(static_cast<size_t>(experts));
      double sum = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const int32_t e = of[static_cast<size_t>(t)];
        if (++load[static_cast<size_t>(e)] > capacity) return -1e9;
        sum += static_cast<double>(scores[static_cast<size_t>(t * experts + e)]);
      }
      return sum;
    };
    double best = -1e9;
    std::vector<int32_t> of(static_cast<size_t>(tokens));
    const std::function<void(int64_t)> every = [&](int64_t t) {
      if (t == tokens) return void(best = std::max(best, value(of)));
      for (int32_t e = 0; e < experts; ++e) of[static_cast<size_t>(t)] = e, every(t + 1);
    };
    every(0);
    EXPECT_NEAR(value(found), best, 1e-6) << key;
  }
}

TEST(RouterKinds, BaseIsEvenInTrainingAndGreedyOtherwise) {
  TestRouter r(of_kind(Selection::base, 5, 1));
  TestRouter greedy(of_kind(Selection::top_k, 5, 1));
  greedy.x = r.x;
  std::copy_n(r.weights["router"].values, r.weights["router"].count, greedy.weights["router"].values);
  const ops::RoutingPlan plan = r.plan(true);
  for (int64_t e = 0; e < 5; ++e) EXPECT_LE(std::ssize(plan.tokens_of(e)), 5);  // ceil(24 / 5)
  const auto rest = slots(r.plan(false)), best = slots(greedy.plan(false));
  bool uneven = false;
  for (int64_t e = 0; e < 5; ++e) uneven = uneven || std::ssize(r.plan(false).tokens_of(e)) > 5;
  EXPECT_TRUE(uneven) << "nothing was evened";
  for (size_t i = 0; i < rest.size(); ++i) EXPECT_EQ(std::get<1>(rest[i]), std::get<1>(best[i]));
}

// Where the iteration has ended all experts weigh the same, all tokens too, and the choice follows from that.
TEST(RouterKinds, SinkhornEvensLoads) {
  TestRouter r(of_kind(Selection::sinkhorn, 4, 1));
  // Expert 0 is everybody's favourite.
  for (float& v : r.x) v = std::abs(v);
  for (int64_t i = 0; i < kWidth; ++i) r.weights["router"].values[i] = 1;
  const ops::RoutingPlan before = r.plan(false), after = r.plan(true);
  EXPECT_GT(std::ssize(before.tokens_of(0)), 20);
  for (int64_t e = 0; e < 4; ++e) {
    EXPECT_GE(std::ssize(after.tokens_of(e)), 1);
    EXPECT_LE(std::ssize(after.tokens_of(e)), 14);
  }
}

// Megatron's iteration (megatron/core/transformer/moe/moe_utils.py: sinkhorn) again, in f64 and from its definition:
// exp(h), scaled by rows and columns until the columns' factors move by less than 1e-4 on average; then the k largest.
std::vector<int32_t> sinkhorn(const std::vector<double>& logits, size_t n, size_t experts, size_t k) {
  std::vector<double> cost(logits.size()), rows(n, 1), columns(experts, 1);
  std::transform(logits.begin(), logits.end(), cost.begin(), [](double h) { return std::exp(h); });
  for (double error = 1e9; error > 1e-4;) {
    for (size_t t = 0; t < n; ++t) {
      double sum = 0;
      for (size_t e = 0; e < experts; ++e) sum += columns[e] * cost[t * experts + e];
      rows[t] = 1 / static_cast<double>(n) / (sum + 1e-8);
    }
    const std::vector<double> before = columns;
    error = 0;
    for (size_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (size_t t = 0; t < n; ++t) sum += rows[t] * cost[t * experts + e];
      columns[e] = 1 / static_cast<double>(experts) / (sum + 1e-8);
      error += std::abs(columns[e] - before[e]) / static_cast<double>(experts);
    }
  }
  std::vector<int32_t> ids;
  for (size_t t = 0; t < n; ++t) {
    std::vector<int32_t> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return cost[t * experts + static_cast<size_t>(a)] * columns[static_cast<size_t>(a)] >
             cost[t * experts + static_cast<size_t>(b)] * columns[static_cast<size_t>(b)];
    });
    ids.insert(ids.end(), order.begin(), order.begin() + static_cast<int64_t>(k));
  }
  return ids;
}

TEST(RouterKinds, SinkhornChoosesAsItsDefinitionDoes) {
  int64_t other = 0;
  for (uint64_t key = 0; key < 20; ++key) {
    base::Rng rng(key);
    const size_t experts = 3 + key % 6, k = 1 + key % 3, n = 5 + rng.below(60);
    std::vector<float> logits(n * experts);
    // Some experts are everybody's favourites, and tokens differ in how large their logits are.
    for (size_t t = 0; t < n; ++t)
      for (size_t e = 0; e < experts; ++e)
        logits[t * experts + e] = 1.5f * rng.normal() + (e < 2 ? 2.0f : 0.0f) + static_cast<float>(t % 5) - 2;
    const RouterSpec spec = of_kind(Selection::sinkhorn, static_cast<int64_t>(experts), static_cast<int64_t>(k));
    std::vector<int32_t> found(n * k), plain(n * k);
    const RouterKind& kind = kind_of(Selection::sinkhorn);
    kind.assign({.spec = spec,
                 .logits = {logits.data(), static_cast<int64_t>(n), static_cast<int64_t>(experts)},
                 .sequences = {}},
                found.data());
    EXPECT_EQ(found, sinkhorn({logits.begin(), logits.end()}, n, experts, k)) << key;
    for (size_t t = 0; t < n; ++t) {
      std::vector<int32_t> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return logits[t * experts + static_cast<size_t>(a)] > logits[t * experts + static_cast<size_t>(b)];
      });
      std::copy_n(order.begin(), k, plain.begin() + static_cast<int64_t>(t * k));
    }
    other += found != plain;
  }
  EXPECT_EQ(other, 20) << "the iteration changed nothing";
}

TEST(RouterKinds, GradientsEqualFiniteDifferences) {
  for (RouterSpec spec : {of_kind(Selection::hash, 6, 2), of_kind(Selection::expert_choice, 6, 2),
                          of_kind(Selection::sinkhorn, 6, 2), of_kind(Selection::base, 6, 1)}) {
    SCOPED_TRACE(kind_of(spec.selection).name);
    spec.bias = true;
    expect_gradients(spec);
  }
}

// transformers' sparsemixer (modeling_phimoe.py) in training, under PyTorch's autograd: multipliers m and gradients by
// the scores of Σ a m, for draws that took other experts than the best and a third of their weight.
TEST(RouterKinds, SparseMixersEstimatorIsTheReferences) {
  RouterSpec spec{.experts = 4, .experts_per_token = 2};
  spec.selection = Selection::sparsemixer, spec.near_best = 0.3f;
  const std::vector<float> logits = {1.0f, 0.8f, 0.7f, -1.0f};
  // Scores near 1.0 within 0.6 of it: 0, 1 and 2. p = softmax(1, 0.8, 0.7). Drawn: 1, then 2 of {0, 2}.
  const double e0 = 1, e1 = std::exp(-0.2), e2 = std::exp(-0.3), sum = e0 + e1 + e2;
  const std::vector<int32_t> ids = {1, 2};
  const std::vector<double> a = {0.9, -0.4};
  std::vector<float> gradient(4);
  kind_of(Selection::sparsemixer).weigh_backward(spec, logits.data(), ids, a.data(), gradient.data());
  // PhimoeMultiplier.backward: grad · m · (onehot - masked gates), with m before the third is taken.
  const double p[] = {e0 / sum, e1 / sum, e2 / sum}, q0 = e0 / (e0 + e2), q2 = e2 / (e0 + e2);
  EXPECT_NEAR(gradient[0], -a[0] * p[1] * p[0] - a[1] * q2 * q0, 1e-6);
  EXPECT_NEAR(gradient[1], a[0] * p[1] * (1 - p[1]), 1e-6);
  EXPECT_NEAR(gradient[2], -a[0] * p[1] * p[2] + a[1] * q2 * (1 - q2), 1e-6);
  EXPECT_EQ(gradient[3], 0);
}

// Drawn in proportion to the masked softmax; whole where the best was drawn, else a third three times of four.
TEST(RouterKinds, SparseMixerDrawsInTraining) {
  RouterSpec spec{.experts = 4, .experts_per_token = 1};
  spec.selection = Selection::sparsemixer, spec.near_best = 0.3f;
  const std::vector<float> logits = {1.0f, 0.8f, 0.7f, -1.0f};
  const double sum = 1 + std::exp(-0.2) + std::exp(-0.3);
  const double p[] = {1 / sum, std::exp(-0.2) / sum, std::exp(-0.3) / sum, 0};
  std::vector<double> scratch(static_cast<size_t>(choose_scratch(spec)));
  constexpr int64_t kDraws = 20000;
  double count[4] = {}, whole = 0, others = 0;
  for (int64_t position = 0; position < kDraws; ++position) {
    int32_t id;
    float weight;
    choose({spec, logits.data(), nullptr, {7, 1, position, 0}, scratch, true}, &id, &weight);
    ++count[id];
    const double full = p[id];
    const bool is_whole = std::abs(static_cast<double>(weight) - full) < 1e-6;
    EXPECT_TRUE(is_whole || (id != 0 && std::abs(static_cast<double>(weight) - 0.3333 * full) < 1e-6));
    others += id != 0, whole += id != 0 && is_whole;
  }
  for (size_t e = 0; e < 4; ++e) EXPECT_NEAR(count[e], p[e] * kDraws, 5 * std::sqrt(kDraws * p[e] * (1 - p[e])) + 1e-9);
  EXPECT_NEAR(whole / others, 0.25, 5 * std::sqrt(0.25 * 0.75 / others));
}

}  // namespace
}  // namespace coterie::layers
