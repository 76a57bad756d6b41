#include "runtime/prefix_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <vector>

#include "runtime/engine.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using test::fixture;
using test::tiny_model;

std::vector<int32_t> count_from(int32_t first, int64_t length) {
  std::vector<int32_t> ids(static_cast<size_t>(length));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

EngineOptions small() {
  EngineOptions options;
  options.threads = 1;
  options.snapshots = 2, options.snapshot_interval = 32;
  return options;
}

/// Evaluates what `cache` has not got of the ids; returns the last row of logits.
std::vector<float> evaluate(Engine& engine, KvCache& cache, std::span<const int32_t> ids) {
  const models::SequenceStep step{.ids = ids.subspan(static_cast<size_t>(cache.length())), .state = &cache};
  const tensor::Matrix logits = engine.evaluate({&step, 1});
  return {logits.row(0), logits.row(0) + logits.cols};
}

PrefixCache tree_of(Engine& engine, int64_t states = 4) {
  return {engine.pages(), engine.shared_cache_shape(), states};
}

TEST(PrefixCache, SequencesGoOnFromSharedPagesAsIfTheyHadComputedThem) {
  for (const bool states : {false, true}) {
    Engine engine(states ? families::open_model(fixture("jamba")) : tiny_model(false), small());
    PrefixCache tree = tree_of(engine);
    const std::vector<int32_t> ids = count_from(0, 40), whole(ids.begin(), ids.begin() + 32);
    KvCache first = engine.make_cache();
    evaluate(engine, first, whole);
    tree.insert("key", whole, first, {});
    const std::vector<float> expected = evaluate(engine, first, ids);

    PrefixCache::Found found = tree.find("key", std::span(ids).first(39));
    EXPECT_EQ(found.positions, 32);
    EXPECT_TRUE(found.miss.empty()) << found.miss;
    EXPECT_EQ(found.state != nullptr, states);
    KvCache second = engine.make_cache();
    // It has computed some of it itself, a page and a half.
    evaluate(engine, second, std::span(ids).first(24));
    const int64_t pages = engine.pages()->pages_in_use();
    second.adopt(found.pages, found.positions, found.state);
    EXPECT_EQ(second.length(), 32);
    EXPECT_EQ(engine.pages()->pages_in_use(), pages - 1) << "the half is given back";
    EXPECT_EQ(evaluate(engine, second, ids), expected);
    // A page that is known gives way to the one in the tree.
    KvCache third = engine.make_cache();
    evaluate(engine, third, whole);
    const int64_t before = engine.pages()->pages_in_use();
    tree.insert("key", whole, third, {});
    EXPECT_EQ(engine.pages()->pages_in_use(), before - 2);
    EXPECT_EQ(evaluate(engine, third, ids), expected);
    EXPECT_EQ(tree.nodes(), 2);
  }
}

TEST(PrefixCache, GivesUpTheLeastRecentlyUsedLeafThatNobodyHolds) {
  Engine engine(tiny_model(false), small());
  PrefixCache tree = tree_of(engine);
  std::vector<KvCache> caches;
  const std::array<std::vector<int32_t>, 3> ids = {count_from(0, 48), count_from(50, 32), count_from(100, 32)};
  for (const auto& each : ids) {
    caches.push_back(engine.make_cache());
    evaluate(engine, caches.back(), each);
    tree.insert("key", each, caches.back(), {});
  }
  EXPECT_EQ(tree.nodes(), 7);
  EXPECT_EQ(tree.evictable(), 0);
  EXPECT_EQ(tree.evict(1), 0) << "sequences that run hold them all";
  caches.erase(caches.begin() + 1);
  EXPECT_EQ(tree.evictable(), 2);
  EXPECT_EQ(tree.in_use("key", ids[1]), 0);
  EXPECT_EQ(tree.in_use("key", ids[0]), 3);
  caches.clear();
  EXPECT_EQ(tree.evictable(), 7);
  EXPECT_EQ(tree.find("key", ids[0]).positions, 48);  // now the second is the oldest
  EXPECT_EQ(tree.evict(3), 3);
  EXPECT_EQ(tree.known("key", ids[1]), 0);
  EXPECT_EQ(tree.known("key", ids[2]), 16) << "leaves go before what they hang on";
  EXPECT_EQ(tree.known("key", ids[0]), 48);
  EXPECT_EQ(engine.pages()->pages_in_use(), 4);
  EXPECT_NE(tree.find("key", ids[1]).miss.find("evicted"), std::string::npos);
  EXPECT_NE(tree.find("other", ids[0]).miss.find("nothing was cached"), std::string::npos);
  tree.clear();
  EXPECT_EQ(engine.pages()->pages_in_use(), 0);
}

TEST(PrefixCache, HoldsNoMoreStatesThanItMay) {
  Engine engine(families::open_model(fixture("jamba")), small());
  PrefixCache tree = tree_of(engine, 2);
  for (const int32_t first : {0, 30, 60}) {
    KvCache cache = engine.make_cache();
    const std::vector<int32_t> ids = count_from(first, 32);
    evaluate(engine, cache, ids);
    tree.insert("key", ids, cache, {});
  }
  EXPECT_EQ(tree.states(), 2);
  EXPECT_EQ(tree.states_evicted(), 1U);
  EXPECT_EQ(tree.known("key", count_from(0, 32)), 0);
  EXPECT_EQ(tree.nodes(), 4) << "nobody can go on from pages without a state after them";
  EXPECT_EQ(engine.pages()->pages_in_use(), 4);
  // The state goes that was used least recently, though its path is the one that is written to.
  KvCache cache = engine.make_cache();
  std::vector<int32_t> ids = count_from(30, 32);
  PrefixCache::Found found = tree.find("key", ids);
  EXPECT_EQ(found.positions, 32);
  cache.adopt(found.pages, found.positions, found.state);
  ids = count_from(30, 64);
  evaluate(engine, cache, ids);
  tree.insert("key", ids, cache, {});
  EXPECT_EQ(tree.known("key", ids), 64);
  EXPECT_EQ(tree.known("key", count_from(60, 32)), 0);
  tree.limit_states(0);
  EXPECT_EQ(tree.nodes(), 0);
}

}  // namespace
}  // namespace coterie::runtime
