#include "runtime/expert_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::runtime {
namespace {

using Expert = std::pair<int32_t, int32_t>;  // layer, expert

PolicyShape one_class(int64_t layers, int64_t experts, int64_t slots) {
  return {.layers = layers,
          .experts = experts,
          .size_class = std::vector<int32_t>(static_cast<size_t>(layers * experts), 0),
          .slots = {slots}};
}

std::vector<ExpertDemand> demands(std::initializer_list<int32_t> experts) {
  std::vector<ExpertDemand> all;
  for (const int32_t e : experts) all.push_back({.expert = e});
  return all;
}

/// k of n, skewed to the low ids, ascending.
std::vector<ExpertDemand> draw(base::Rng& rng, int64_t n, int64_t k) {
  std::set<int32_t> ids;
  while (std::ssize(ids) < k)
    ids.insert(static_cast<int32_t>(static_cast<double>(n) * std::pow(rng.uniform_double(), 2.0)));
  std::vector<ExpertDemand> all;
  for (const int32_t id : ids) all.push_back({.expert = id, .tokens = 1 + rng.below(3)});
  return all;
}

/// The rule of decoding, written again over maps of experts: no slots, no incremental ageing.
struct Naive {
  struct Event {
    int64_t token;
    double weight;
  };
  Naive(int64_t slots, int64_t half) : capacity(slots), aging(half) {}
  int64_t capacity, aging, token = 0, now = 0, last_layer = -1;
  std::map<Expert, std::vector<Event>> used;
  std::map<Expert, int64_t> last;
  std::set<Expert> resident;

  double count(const Expert& expert) {
    double sum = 0;
    for (const Event& e : used[expert]) sum += e.weight * std::pow(0.5, token / aging - e.token / aging);
    return sum;
  }
  /// Those that missed.
  std::set<Expert> step(int32_t layer, const std::vector<ExpertDemand>& wanted, int64_t tokens) {
    if (layer <= last_layer || last_layer < 0) token += tokens;
    last_layer = layer, ++now;
    std::set<Expert> asked, missed;
    for (const ExpertDemand& d : wanted) {
      const Expert expert{layer, d.expert};
      asked.insert(expert), last[expert] = now;
      used[expert].push_back({token, static_cast<double>(d.tokens)});
      if (!resident.contains(expert)) missed.insert(expert);
    }
    while (std::ssize(resident) + std::ssize(missed) > capacity) {
      const Expert* least = nullptr;
      for (const Expert& e : resident)
        if (!asked.contains(e) && (!least || std::pair(count(e), last[e]) < std::pair(count(*least), last[*least])))
          least = &e;
      resident.erase(Expert(*least));
    }
    resident.insert(missed.begin(), missed.end());
    return missed;
  }
};

TEST(ExpertPolicy, DecidesAsTheRuleWrittenPlainlyDoes) {
  for (const int64_t slots : {13, 20, 40, 70}) {
    constexpr int64_t kLayers = 5, kExperts = 16;
    ExpertPolicy policy(one_class(kLayers, kExperts, slots));
    Naive naive(slots, policy.shape().aging);
    base::Rng rng(7, static_cast<uint64_t>(slots));
    for (int64_t token = 0; token < 300; ++token) {
      const int64_t rows = 1 + rng.below(3);
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        const std::vector<ExpertDemand> wanted = draw(rng, kExperts, 2 + rng.below(4));
        const std::set<Expert> missed = naive.step(layer, wanted, rows);
        const ExpertPolicy::Plan plan = policy.plan(layer, wanted, rows, false);
        ASSERT_EQ(plan.misses(), std::ssize(missed)) << "token " << token << ", layer " << layer;
        for (const ExpertPolicy::Use& use : plan.uses) {
          ASSERT_EQ(use.hit, !missed.contains({layer, use.expert}));
          ASSERT_EQ(policy.slot_of(layer, use.expert), use.slot);
          ASSERT_EQ(use.after, ExpertPolicy::kNone);
          ASSERT_FALSE(naive.resident.contains({use.evicted_layer, use.evicted_expert}));
        }
        ASSERT_EQ(policy.leased(), std::ssize(wanted));
        policy.release(layer);
        ASSERT_EQ(policy.leased(), 0);
      }
    }
    for (int32_t layer = 0; layer < kLayers; ++layer)
      for (int32_t e = 0; e < kExperts; ++e)
        EXPECT_EQ(policy.slot_of(layer, e) != ExpertPolicy::kNone, naive.resident.contains({layer, e}));
    EXPECT_GT(policy.decode().hits, 0);
    EXPECT_GT(policy.decode().misses, 0);
  }
}

TEST(ExpertPolicy, StartsWithEmptySlotsAndGivesThemFirst) {
  ExpertPolicy policy(one_class(2, 8, 6));
  const auto first = policy.plan(0, demands({5, 0}), 1, false);
  ASSERT_EQ(first.misses(), 2);
  for (const auto& use : first.uses) EXPECT_EQ(use.evicted_expert, ExpertPolicy::kNone);
  policy.release(0);
  EXPECT_EQ(policy.slot_of(0, 1), ExpertPolicy::kNone);
  const auto second = policy.plan(1, demands({0, 1, 2, 3}), 1, false);
  for (const auto& use : second.uses) EXPECT_EQ(use.evicted_expert, ExpertPolicy::kNone);
  policy.release(1);
  EXPECT_EQ(policy.plan(0, demands({0, 5}), 1, false).hits, 2);
}

TEST(ExpertPolicy, LeasedSlotsAreNobodysVictims) {
  ExpertPolicy policy(one_class(3, 8, 4));
  policy.plan(0, demands({0, 1}), 1, false);  // stays leased
  for (int i = 0; i < 20; ++i) {
    const auto plan = policy.plan(1, demands({i % 8, (i + 1) % 8}), 1, false);
    for (const auto& use : plan.uses) EXPECT_NE(use.evicted_layer, 0);
    policy.release(1);
  }
  EXPECT_NE(policy.slot_of(0, 0), ExpertPolicy::kNone);
  policy.plan(1, demands({0, 1}), 1, false);
  EXPECT_THROW(policy.plan(2, demands({0}), 1, false), base::Error);  // all four are leased
}

TEST(ExpertPolicy, ClassesOfSizeShareNoSlots) {
  PolicyShape shape = one_class(2, 4, 0);
  shape.slots = {2, 3};
  for (size_t i = 4; i < 8; ++i) shape.size_class[i] = 1;
  shape.size_class[7] = -1;
  ExpertPolicy policy(shape);
  for (int i = 0; i < 8; ++i) {
    for (const auto& use : policy.plan(0, demands({i % 4}), 1, false).uses) EXPECT_LT(use.slot, policy.first_slot(1));
    policy.release(0);
    for (const auto& use : policy.plan(1, demands({i % 3}), 1, false).uses) EXPECT_GE(use.slot, policy.first_slot(1));
    policy.release(1);
  }
  EXPECT_EQ(policy.first_slot(2), 5);
  EXPECT_THROW(policy.plan(1, demands({3}), 1, false), base::Error);  // does not exist
  EXPECT_THROW(ExpertPolicy(one_class(2, 4, 0)), base::Error);
}

/// Walks a plan as an engine would: a slot may be filled only when what it holds has been computed.
void expect_in_order(const ExpertPolicy::Plan& plan) {
  std::map<int32_t, int32_t> last;
  for (int32_t u = 0; u < std::ssize(plan.uses); ++u) {
    const auto& use = plan.uses[static_cast<size_t>(u)];
    const auto before = last.find(use.slot);
    EXPECT_EQ(use.after, before == last.end() ? ExpertPolicy::kNone : before->second);
    EXPECT_TRUE(!use.hit || use.after == ExpertPolicy::kNone);
    last[use.slot] = u;
  }
}

TEST(ExpertPolicy, MoreMissesThanSlotsTakeTurns) {
  ExpertPolicy policy(one_class(1, 16, 3));
  for (const bool prompt : {false, true, false}) {
    std::vector<ExpertDemand> all(16);
    for (int32_t e = 0; e < 16; ++e) all[static_cast<size_t>(e)].expert = e;
    const auto plan = policy.plan(0, all, 4, prompt);
    EXPECT_EQ(std::ssize(plan.uses), 16);
    expect_in_order(plan);
    policy.release(0);
    EXPECT_EQ(policy.leased(), 0);
  }
}

TEST(ExpertPolicy, APromptReadsEachMissingExpertOnceAndKeepsTheOthers) {
  constexpr int64_t kLayers = 8, kExperts = 32, kSlots = 100;
  ExpertPolicy policy(one_class(kLayers, kExperts, kSlots));
  std::vector<ExpertDemand> all(kExperts);
  for (int32_t e = 0; e < kExperts; ++e) all[static_cast<size_t>(e)] = {.expert = e, .tokens = 16};
  for (int chunk = 0; chunk < 4; ++chunk) {
    int64_t resident = 0, misses = 0;
    for (int64_t layer = 0; layer < kLayers; ++layer)
      for (int32_t e = 0; e < kExperts; ++e) resident += policy.slot_of(layer, e) != ExpertPolicy::kNone;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const auto plan = policy.plan(layer, all, 64, true);
      expect_in_order(plan);
      misses += plan.misses();
      policy.release(layer);
    }
    const int64_t missing = kLayers * kExperts - resident;
    EXPECT_GE(misses, missing);
    EXPECT_LE(misses, missing + ring_slots(kSlots));  // those that the first chunk took for the ring
    EXPECT_LE(misses, chunk == 0 ? kLayers * kExperts : kLayers * kExperts - kSlots + ring_slots(kSlots));  // LRU: all
  }
  EXPECT_EQ(policy.prompt().tokens, 256);
  EXPECT_EQ(policy.decode().tokens, 0);
}

TEST(ExpertPolicy, AnAnswerFindsWhatThePromptsLastTokensChose) {
  constexpr int64_t kLayers = 8, kExperts = 32, kSlots = 100;
  ExpertPolicy policy(one_class(kLayers, kExperts, kSlots));
  std::vector<ExpertDemand> all(kExperts);
  for (int chunk = 0; chunk < 3; ++chunk)
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (int32_t e = 0; e < kExperts; ++e)
        all[static_cast<size_t>(e)] = {.expert = e, .tokens = 16, .warm = chunk == 2 && (e + layer) % 8 == 0 ? 4 : 0};
      policy.plan(layer, all, 64, true);
      policy.release(layer);
    }
  for (int32_t layer = 0; layer < kLayers; ++layer)
    for (int32_t e = 0; e < kExperts; ++e)
      EXPECT_TRUE((e + layer) % 8 != 0 || policy.slot_of(layer, e) != ExpertPolicy::kNone) << layer << " " << e;
}

TEST(ExpertPolicy, AMissThatPassesTakesASlotThatWasToStayWhereThereIsNoOther) {
  ExpertPolicy policy(one_class(2, 8, 2));
  policy.plan(0, demands({0, 1}), 1, false), policy.release(0);
  std::vector<ExpertDemand> wanted = demands({2, 3, 4});
  wanted[1].warm = wanted[2].warm = 1;
  const auto plan = policy.plan(1, wanted, 8, true);
  EXPECT_EQ(plan.misses(), 3);
  expect_in_order(plan);
}

TEST(ExpertPolicy, WhatIsPrefetchedIsNobodysVictimUntilItIsAskedForOrArrives) {
  ExpertPolicy policy(one_class(2, 16, 16));
  policy.plan(0, demands({0, 1, 2, 3, 4, 5, 6, 7}), 1, false), policy.release(0);
  policy.plan(1, demands({0, 1, 2, 3, 4, 5, 6, 7}), 1, false), policy.release(1);
  policy.plan(0, demands({0, 1}), 1, false);
  // One that is there, three that are not (two slots are an eighth), one twice, and what is no expert.
  const int32_t guess[] = {4, 9, 9, 10, 11, -1, 99};
  const auto ahead = policy.prefetch(1, guess, false);
  ASSERT_EQ(ahead.size(), 2u);
  EXPECT_EQ(ahead[0].expert, 9);
  EXPECT_EQ(ahead[1].expert, 10);
  for (const auto& each : ahead) EXPECT_EQ(policy.slot_of(1, each.expert), each.slot);
  EXPECT_NE(policy.slot_of(1, 4), ExpertPolicy::kNone);
  policy.release(0);
  const auto plan = policy.plan(1, demands({4, 9, 12, 13}), 1, false);
  EXPECT_EQ(plan.hits, 2);
  for (const auto& use : plan.uses) EXPECT_NE(use.slot, ahead[1].slot) << "it has not arrived";
  policy.release(1);
  policy.arrived(ahead[1].slot);
  EXPECT_EQ(policy.plan(1, demands({10}), 1, false).hits, 1);
  policy.release(1);
  policy.forget(ahead[1].slot);
  EXPECT_EQ(policy.slot_of(1, 10), ExpertPolicy::kNone);
  EXPECT_EQ(policy.plan(1, demands({10}), 1, false).uses.front().slot, ahead[1].slot);  // empty slots first
}

TEST(ExpertPolicy, FewSlotsAreLeftToWhoAsks) {
  ExpertPolicy policy(one_class(2, 8, 4));
  policy.plan(0, demands({0, 1}), 1, false);
  const int32_t guess[] = {4, 5};
  EXPECT_TRUE(policy.prefetch(1, guess, false).empty());
}

// In a prompt what is guessed goes where the misses of the layer go that is computed now, the first of them first.
TEST(ExpertPolicy, APromptPrefetchesIntoItsRing) {
  ExpertPolicy policy(one_class(3, 8, 12));
  const auto all = demands({0, 1, 2, 3, 4, 5, 6, 7});
  policy.plan(0, all, 64, true), policy.release(0);
  policy.plan(1, all, 64, true), policy.release(1);
  policy.plan(2, all, 64, true), policy.release(2);
  const auto now = policy.plan(0, all, 64, true);
  const int32_t guess[] = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto ahead = policy.prefetch(1, guess, true);
  ASSERT_FALSE(ahead.empty());
  for (const auto& each : ahead)
    EXPECT_TRUE(std::any_of(now.uses.begin(), now.uses.end(), [&](const auto& use) { return use.slot == each.slot; }));
  policy.release(0);
  const auto next = policy.plan(1, all, 64, true);
  for (const auto& each : ahead)
    EXPECT_TRUE(std::any_of(next.uses.begin(), next.uses.end(), [&](const auto& use) {
      return use.hit && use.expert == each.expert && use.slot == each.slot;
    }));
  expect_in_order(next);
}

TEST(ExpertPolicy, BelowOneTokensSetItStillHits) {
  // Two sets that take turns, more than there are slots: LRU would hit never.
  ExpertPolicy policy(one_class(4, 8, 6));
  for (int token = 0; token < 200; ++token)
    for (int64_t layer = 0; layer < 4; ++layer) {
      policy.plan(layer, demands({0, token % 2 == 0 ? 1 : 2}), 1, false);
      policy.release(layer);
    }
  EXPECT_GT(policy.decode().hit_share(), 0.4);
}

}  // namespace
}  // namespace coterie::runtime
