#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <stdexcept>

#include "base/rng.h"
#include "runtime/generation.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

// Sequences that join, leave, fail and are cancelled one by one: none disturbs a bit of another.
namespace coterie::runtime {
namespace {

using Logits = models::SequenceStep::Logits;

EngineOptions options_of(ops::Precision precision = ops::Precision::fast) {
  EngineOptions options;
  options.threads = 2;
  options.precision = precision;
  options.step_tokens = 16;
  options.snapshot_interval = 16;
  return options;
}

GenerationOptions greedy(int64_t tokens) {
  GenerationOptions options;
  options.sampler.temperature = 0;
  options.max_tokens = tokens;
  options.ignore_end = true;
  return options;
}

std::vector<TokenId> ids_of(int64_t length, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(length));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(100));
  return ids;
}

std::vector<TokenId> tokens_of(const Generation& generation) {
  return {generation.generated().begin(), generation.generated().end()};
}

std::vector<TokenId> alone(Engine& engine, std::span<const TokenId> prompt, int64_t count) {
  Generation generation(engine, prompt, greedy(count));
  run(engine, generation);
  return tokens_of(generation);
}

std::vector<float> row(tensor::Matrix logits, int64_t r) { return {logits.row(r), logits.row(r) + logits.cols}; }

/// Raises a flag when a layer has been computed, within a step.
class CancelAfter final : public layers::Observer {
 public:
  CancelAfter(int64_t layer, std::atomic<bool>& flag) : layer_(layer), flag_(flag) {}
  void block(int64_t layer, tensor::ConstMatrix x) override {
    ++blocks, rows += x.rows;
    if (layer == layer_) flag_ = true;
  }
  int64_t blocks = 0, rows = 0;

 private:
  int64_t layer_;
  std::atomic<bool>& flag_;
};

class Sequences : public testing::TestWithParam<const char*> {
 protected:
  families::Model model() const { return families::open_model(test::fixture(GetParam())); }
};

// Three sequences; before layer 1 the middle one, or whichever `leaver` says, leaves. The rows of the others are those
// of each alone, in their places, and the leaver can be evaluated again.
TEST_P(Sequences, LeaveAStepBetweenLayersWithoutDisturbingOthers) {
  Engine engine(model(), options_of());
  const std::array<std::vector<TokenId>, 3> ids = {ids_of(5, 1), ids_of(1, 2), ids_of(7, 3)};
  const auto step_of = [&](size_t i, KvCache& cache) {
    return models::SequenceStep{.ids = ids[i], .state = &cache, .logits = i == 2 ? Logits::all : Logits::last};
  };
  std::array<std::vector<float>, 3> last;
  for (size_t i = 0; i < 3; ++i) {
    KvCache cache = engine.make_cache();
    const models::SequenceStep step = step_of(i, cache);
    const tensor::Matrix logits = engine.evaluate({&step, 1});
    last[i] = row(logits, logits.rows - 1);
  }
  for (size_t leaver = 0; leaver < 3; ++leaver) {
    std::vector<KvCache> caches;
    std::vector<models::SequenceStep> steps;
    for (size_t i = 0; i < 3; ++i) caches.push_back(engine.make_cache());
    for (size_t i = 0; i < 3; ++i) steps.push_back(step_of(i, caches[i]));
    const std::function<bool(int64_t)> leaves = [](int64_t layer) { return layer >= 1; };
    steps[leaver].leaves = &leaves;
    const tensor::Matrix logits = engine.evaluate(steps);
    ASSERT_EQ(logits.rows, 2 + 7);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(caches[i].length(), i == leaver ? 0 : std::ssize(ids[i]));
      if (i == leaver) continue;
      EXPECT_EQ(row(logits, i == 2 ? 8 : static_cast<int64_t>(i)), last[i]) << i << " of " << leaver;
    }
    steps[leaver].leaves = nullptr;
    const tensor::Matrix again = engine.evaluate({&steps[leaver], 1});
    EXPECT_EQ(row(again, again.rows - 1), last[leaver]) << "a step that was left can be taken again";
  }
}

TEST_P(Sequences, AStepThatAllHaveLeftEnds) {
  Engine engine(model(), options_of());
  const std::vector<TokenId> ids = ids_of(6, 1);
  KvCache cache = engine.make_cache();
  std::atomic<bool> flag{false};
  CancelAfter observer(0, flag);
  const std::function<bool(int64_t)> leaves = [&](int64_t) { return flag.load(); };
  const models::SequenceStep step{.ids = ids, .state = &cache, .leaves = &leaves};
  engine.evaluate({&step, 1}, {.observer = &observer});
  EXPECT_EQ(observer.blocks, 1);
  EXPECT_EQ(cache.length(), 0);
}

// The flag of one goes up after the first layer of a step that reads its prompt while another decodes.
TEST_P(Sequences, AreCancelledBetweenLayers) {
  Engine engine(model(), options_of());
  const std::vector<TokenId> staying = ids_of(9, 1), leaving = ids_of(40, 2);
  const std::vector<TokenId> expected = alone(engine, staying, 12);
  for (const int at : {0, 1, 2}) {
    std::atomic<bool> flag{false};
    GenerationOptions options = greedy(12);
    options.interrupt = &flag;
    Generation one(engine, staying, greedy(12)), other(engine, leaving, options);
    Generation* const both[] = {&other, &one};
    for (int i = 0; i < at; ++i) step(engine, both);
    CancelAfter observer(0, flag);
    step(engine, both, &observer);
    EXPECT_EQ(other.finish(), Finish::interrupted);
    EXPECT_LT(observer.rows, 17 * observer.blocks) << "rows of who has left are computed no further";
    while (!one.finished()) step(engine, both);
    EXPECT_EQ(tokens_of(one), expected) << "after " << at << " steps";
    // What it had evaluated before is sound.
    TokenCache kept = other.release();
    Generation again(engine, std::move(kept), leaving, greedy(5));
    run(engine, again);
    EXPECT_EQ(tokens_of(again), alone(engine, leaving, 5));
  }
}

TEST_P(Sequences, GoOnFromAForkAsIfAlone) {
  Engine engine(model(), options_of());
  const std::vector<TokenId> prompt = ids_of(37, 4);
  Generation first(engine, prompt, greedy(10));
  Generation* const one[] = {&first};
  while (first.generated().size() < 3) step(engine, one);
  const auto biased = [](TokenId id) {
    GenerationOptions options = greedy(10);
    options.sampler.logit_bias = {{id, 3.0f}};
    return options;
  };
  Generation second = first.fork(biased(5)), third = first.fork(biased(9));
  EXPECT_EQ(second.statistics().reused_tokens, 36);
  Generation* const all[] = {&first, &second, &third};
  while (!first.finished() || !second.finished() || !third.finished()) step(engine, all);
  EXPECT_EQ(tokens_of(first), alone(engine, prompt, 10));
  for (const auto& [id, generation] : {std::pair(5, &second), std::pair(9, &third)}) {
    Generation whole(engine, prompt, biased(id));
    run(engine, whole);
    EXPECT_EQ(tokens_of(*generation), tokens_of(whole)) << id;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Sequences, testing::Values("mixtral", "qwen3-moe", "deepseek-v2", "jamba", "zamba2"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == '-' || c == '/'; }, '_');
                           return name;
                         });

// The pool has pages for two sequences of 40 positions and some: the third ends alone, and the others go on.
TEST(SequenceAdmission, PagesThatOneLacksEndThatOneAlone) {
  EngineOptions options = options_of();
  const CacheShape shape = cache_shape(test::tiny_model(false).decoder->spec(), tensor::DType::f16);
  options.cache_bytes = 8 * shape.page_bytes();
  Engine engine(test::tiny_model(false), options);
  Engine free(test::tiny_model(false), options_of());
  std::vector<std::unique_ptr<Generation>> owned;
  std::vector<Generation*> all;
  for (uint64_t i = 0; i < 3; ++i) {
    owned.push_back(std::make_unique<Generation>(engine, ids_of(17, i), greedy(-1)));
    all.push_back(owned.back().get());
  }
  int steps = 0;
  for (; steps < 60 && std::none_of(all.begin(), all.end(), [](auto* g) { return g->finished(); }); ++steps)
    step(engine, all);
  int failed = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!all[i]->finished()) continue;
    ++failed;
    EXPECT_EQ(all[i]->finish(), Finish::failed);
    expect_error(base::ErrorKind::out_of_memory, {"KV cache", "in use"},
                 [&] { std::rethrow_exception(all[i]->error()); });
    owned[i]->release();  // the pages go to the others
  }
  EXPECT_EQ(failed, 1) << "after " << steps << " steps";
  for (int i = 0; i < 10; ++i) step(engine, all);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i]->finished()) continue;
    EXPECT_EQ(tokens_of(*all[i]), alone(free, ids_of(17, i), std::ssize(all[i]->generated())));
  }
  expect_error(base::ErrorKind::out_of_memory, {"KV cache"},
               [&] { Generation refused(engine, ids_of(100, 9), greedy(60)); });
}

// Memory: a fork of n pages holds one page more, the one that is written in part, once it has gone on.
TEST(SequenceForks, ShareTheirPages) {
  Engine engine(test::tiny_model(false), options_of());
  const std::vector<TokenId> ids = ids_of(40, 5);
  KvCache a = engine.make_cache();
  const models::SequenceStep prompt{.ids = ids, .state = &a, .logits = Logits::none};
  engine.evaluate({&prompt, 1});
  const int64_t page = a.own_bytes() / 3;
  KvCache b = a.fork();
  EXPECT_EQ(a.own_bytes(), 0) << "three pages, two holders";
  EXPECT_EQ(b.blocks(0)[2], a.blocks(0)[2]);
  const std::array<TokenId, 2> next = {7, 8};
  const models::SequenceStep steps[] = {{.ids = {&next[0], 1}, .state = &a}, {.ids = {&next[1], 1}, .state = &b}};
  const tensor::Matrix together = engine.evaluate(steps);
  const std::vector<float> of_a = row(together, 0), of_b = row(together, 1);
  EXPECT_EQ(a.own_bytes(), page) << "the last page is no longer shared";
  EXPECT_EQ(b.own_bytes(), page);
  EXPECT_EQ(b.blocks(0)[1], a.blocks(0)[1]);
  for (const auto& [id, expected] : {std::pair(next[0], &of_a), std::pair(next[1], &of_b)}) {
    std::vector<TokenId> whole = ids;
    whole.push_back(id);
    KvCache cache = engine.make_cache();
    const models::SequenceStep step{.ids = whole, .state = &cache};
    EXPECT_EQ(row(engine.evaluate({&step, 1}), 0), *expected);
  }
  { KvCache gone = std::move(a); }
  EXPECT_EQ(b.own_bytes(), 3 * page) << "who is left has all of them";
  b.truncate(20);
  KvCache c = b.fork();
  c.truncate(3);
  c.reserve(4);
  EXPECT_NE(c.blocks(0)[0], b.blocks(0)[0]) << "a page is copied before it is written";
}

TEST(SequenceForks, RecurrentStatesShareTheirCheckpoints) {
  Engine engine(families::open_model(test::fixture("mamba2")), options_of());
  KvCache a = engine.make_cache();
  const std::vector<TokenId> ids = ids_of(40, 6);
  for (const auto piece : {std::span(ids).first(16), std::span(ids).subspan(16, 16), std::span(ids).subspan(32)}) {
    const models::SequenceStep step{.ids = piece, .state = &a, .logits = Logits::none};
    engine.evaluate({&step, 1});
  }
  EXPECT_EQ(a.snapshots(), (std::vector<int64_t>{16, 32}));
  const int64_t state = engine.cache().state.bytes();
  EXPECT_EQ(a.own_bytes(), 3 * state);
  KvCache b = a.fork();
  EXPECT_EQ(a.own_bytes(), state);
  EXPECT_EQ(b.truncate(20), 16);
  EXPECT_EQ(a.length(), 40);
  EXPECT_EQ(a.truncate(33), 32);
}

}  // namespace
}  // namespace coterie::runtime
