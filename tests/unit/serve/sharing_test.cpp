#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "runtime/prefix_key.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

// What requests share of their prompts, and what they must not.
namespace coterie::serve {
namespace {

using runtime::test::fixture;
using runtime::test::tiny_model;
using test::Answer;
using test::greedy;
using test::ids_of;
using test::Served;

int64_t cached(const Answer& answer) { return answer.finished ? answer.finished->usage.cached_tokens : -1; }

TEST(Sharing, AConversationGoesOnWhereItWas) {
  Served served(tiny_model());
  const Answer first = served.run(greedy(ids_of(50, 1), 20));
  EXPECT_EQ(cached(first), 0);
  EXPECT_NE(first.finished->cache_miss.find("nothing was cached"), std::string::npos) << first.finished->cache_miss;
  // 50 + 20 tokens, of which the last was not evaluated: four whole pages.
  std::vector<TokenId> next = ids_of(50, 1);
  next.insert(next.end(), first.ids.begin(), first.ids.end());
  const std::vector<TokenId> own = ids_of(9, 2);
  next.insert(next.end(), own.begin(), own.end());
  const Answer second = served.run(greedy(next));
  EXPECT_EQ(cached(second), 64);
  EXPECT_TRUE(second.finished->cache_miss.empty()) << second.finished->cache_miss;
  EXPECT_EQ(second.progress.front().cached, 64);
  EXPECT_EQ(second.progress.back().done, 79);
  const uint64_t computed = served.settled().counters.evaluated_prompt_tokens;
  EXPECT_EQ(computed, 50U + 79 - 64);
}

TEST(Sharing, EqualBeginningsAtOnceAreComputedOnce) {
  runtime::EngineOptions engine;
  engine.step_tokens = 64;
  Served served(tiny_model(), {}, engine);
  const std::vector<TokenId> prompt = ids_of(150, 3);
  std::vector<Submission> all;
  std::vector<std::shared_ptr<test::Collector>> answers;
  for (uint64_t i = 0; i < 4; ++i) {
    Request request = greedy(prompt);
    request.sampler.temperature = 1, request.sampler.seed = i;
    answers.push_back(std::make_shared<test::Collector>());
    all.push_back({std::move(request), answers.back()});
  }
  served.scheduler->submit(std::move(all));
  int64_t found = 0;
  for (const auto& answer : answers) found += cached(answer->wait());
  EXPECT_EQ(found, 3 * 144);
  EXPECT_EQ(served.settled().counters.evaluated_prompt_tokens, 150U + 3 * 6);
}

TEST(Sharing, TwoSystemPromptsDoNotEvictEachOther) {
  Served served(tiny_model());
  for (int turn = 0; turn < 3; ++turn)
    for (const uint64_t system : {11U, 12U}) {
      std::vector<TokenId> prompt = ids_of(96, system);
      const std::vector<TokenId> own = ids_of(20, static_cast<uint64_t>(turn) * 2 + system);
      prompt.insert(prompt.end(), own.begin(), own.end());
      EXPECT_EQ(cached(served.run(greedy(prompt))), turn == 0 ? 0 : 96);
    }
}

TEST(Sharing, SaysWhyItMissed) {
  Served served(tiny_model());
  const std::vector<TokenId> prompt = ids_of(80, 5);
  served.run(greedy(prompt));
  std::vector<TokenId> edited = prompt;
  edited[40] ^= 1;
  const Answer differs = served.run(greedy(edited));
  EXPECT_EQ(cached(differs), 32);
  EXPECT_NE(differs.finished->cache_miss.find("differs"), std::string::npos) << differs.finished->cache_miss;
  Request bypass = greedy(prompt);
  bypass.use_cache = false;
  const Answer bypassed = served.run(bypass);
  EXPECT_EQ(cached(bypassed), 0);
  EXPECT_NE(bypassed.finished->cache_miss.find("bypassed"), std::string::npos);
  Request scored = greedy(prompt);
  scored.prompt_logprobs = 0;
  EXPECT_EQ(cached(served.run(scored)), 0);
  EXPECT_EQ(cached(served.run(greedy(prompt))), 64) << "what they computed is there all the same";
}

TEST(Sharing, StaysWithinItsMemoryAndSaysWhatItGaveUp) {
  SchedulerOptions options;
  options.cache_memory = 256 << 10;
  Served served(tiny_model(), options);
  const std::vector<TokenId> first = ids_of(100, 1);
  served.run(greedy(first));
  for (uint64_t i = 2; served.scheduler->snapshot().counters.pages_evicted < 8 && i < 200; ++i) {
    served.run(greedy(ids_of(100, i)));
    const MemorySnapshot memory = served.settled().memory;
    EXPECT_LE(memory.used(), options.cache_memory);
    EXPECT_EQ(memory.budget, options.cache_memory);
  }
  const Answer again = served.run(greedy(first));
  EXPECT_LT(cached(again), 96);
  EXPECT_NE(again.finished->cache_miss.find("evicted"), std::string::npos) << again.finished->cache_miss;
}

// One request for each field of the key: they share nothing with the first, and what the field says is what keeps them
// apart.
TEST(Sharing, NothingWithAnotherSalt) {
  Served served(tiny_model());
  const std::vector<TokenId> prompt = ids_of(80, 6);
  served.run(greedy(prompt));
  Request salted = greedy(prompt);
  salted.cache_salt = "another";
  EXPECT_EQ(cached(served.run(salted)), 0);
  EXPECT_EQ(cached(served.run(salted)), 64);
}

TEST(Sharing, NothingWithAnotherSeedWhereRoutersDraw) {
  families::OpenOptions open;
  open.router_sample = 1.0F;
  Served served(families::open_model(fixture("qwen3-moe"), open));
  Request request = greedy(ids_of(80, 6));
  request.sampler.seed = 1;
  served.run(request);
  EXPECT_EQ(cached(served.run(request)), 64);
  request.sampler.seed = 2;
  EXPECT_EQ(cached(served.run(request)), 0);
}

/// Silences one expert in every layer.
class Silence final : public layers::RouterHook {
 public:
  explicit Silence(int64_t expert) : expert_(expert) {}
  void logits(int64_t, int64_t, tensor::Matrix logits) const override {
    for (int64_t r = 0; r < logits.rows; ++r) logits.row(r)[expert_] = -std::numeric_limits<float>::infinity();
  }

 private:
  int64_t expert_;
};

TEST(Sharing, NothingWithOtherExpertsSilenced) {
  Served served(families::open_model(fixture("qwen3-moe")));
  Request plain = greedy(ids_of(80, 6)), silenced = plain, nameless = plain;
  silenced.routed_experts = true;
  silenced.routers = nameless.routers = std::make_shared<Silence>(1);
  silenced.routers_key = "silence 1";
  served.run(plain);
  const Answer first = served.run(silenced), again = served.run(silenced);
  EXPECT_EQ(cached(first), 0);
  EXPECT_EQ(cached(again), 64);
  const std::vector<uint16_t>& experts = again.finished->routed_experts.experts;
  EXPECT_EQ(experts, first.finished->routed_experts.experts);
  EXPECT_EQ(std::count(experts.begin(), experts.end(), 1), 0);
  silenced.routers = std::make_shared<Silence>(2);
  silenced.routers_key = "silence 2";
  EXPECT_EQ(cached(served.run(silenced)), 0);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(cached(served.run(nameless)), 0);
  EXPECT_EQ(cached(served.run(plain)), 64);
}

TEST(Sharing, NothingWithAnotherLengthUnderDynamicScaling) {
  Served served(families::open_model(fixture("llama/rope-dynamic-long")));
  const int64_t context = served.engine->context_size();
  const std::vector<TokenId> prompt = ids_of(context - 10, 6);
  served.run(greedy(prompt));
  EXPECT_GT(cached(served.run(greedy(prompt))), 0);
  std::vector<TokenId> longer = prompt;
  longer.push_back(3);
  const auto& decoder = *served.engine->model().decoder;
  EXPECT_NE(runtime::prefix_key(decoder, {}, std::ssize(prompt)), runtime::prefix_key(decoder, {}, std::ssize(longer)));
  EXPECT_EQ(cached(served.run(greedy(longer))), 0);
}

TEST(Sharing, KeysTellWeightsOfModelsAndTheSideOfLongRoPE) {
  const families::Model model = tiny_model();
  const auto key = [&](const runtime::PrefixFields& fields, int64_t length = 10) {
    return runtime::prefix_key(*model.decoder, fields, length);
  };
  EXPECT_EQ(key({}), key({}, 200));
  EXPECT_NE(key({}), key({.model_weights = {0.5, 0.5}}));
  EXPECT_NE(key({.model_weights = {0.5, 0.5}}), key({.model_weights = {0.25, 0.75}}));
  EXPECT_NE(key({}), key({.seed = 0}));
  EXPECT_NE(key({.salt = "1 seed 2"}), key({.salt = "1", .seed = 2}));
  const families::Model longrope = families::open_model(fixture("phi3/longrope-crossing"));
  EXPECT_NE(runtime::prefix_key(*longrope.decoder, {}, 8), runtime::prefix_key(*longrope.decoder, {}, 200));
}

// Recurrent states: at message boundaries, before the prompt's last token, and where an answer ended.
TEST(Sharing, StatesOfHybridsAreKeptWherePromptsGoOn) {
  SchedulerOptions options;
  options.cache_memory = 64 << 20;
  for (const char* family : {"jamba", "zamba2", "mamba2"}) {
    SCOPED_TRACE(family);
    Served served(families::open_model(fixture(family)), options);
    Request request = greedy(ids_of(100, 8), 20);
    request.boundaries = {40};
    const Answer first = served.run(request);
    EXPECT_EQ(cached(first), 0);
    EXPECT_EQ(cached(served.run(request)), 96) << "before the last token of the prompt";
    std::vector<TokenId> other(request.prompt.begin(), request.prompt.begin() + 40);
    const std::vector<TokenId> own = ids_of(30, 9);
    other.insert(other.end(), own.begin(), own.end());
    EXPECT_EQ(cached(served.run(greedy(other))), 32) << "at the end of the message";
    std::vector<TokenId> next = request.prompt;
    next.insert(next.end(), first.ids.begin(), first.ids.end());
    next.push_back(3);
    EXPECT_EQ(cached(served.run(greedy(next))), 112) << "where the answer ended";
  }
}

TEST(Sharing, RoutedExpertsOfCachedPositionsAreTrue) {
  Served served(families::open_model(fixture("qwen3-moe")));
  Request request = greedy(ids_of(70, 8), 6);
  request.routed_experts = true;
  const Answer first = served.run(request), second = served.run(request);
  EXPECT_EQ(cached(second), 64);
  const RoutedExperts& experts = first.finished->routed_experts;
  EXPECT_EQ(experts.positions, 75);
  EXPECT_GT(experts.layers, 0);
  EXPECT_EQ(std::ssize(experts.experts), experts.positions * experts.layers * experts.experts_per_token);
  EXPECT_EQ(second.finished->routed_experts.experts, experts.experts);
  for (const uint16_t expert : experts.experts) EXPECT_LT(expert, 64);
}

}  // namespace
}  // namespace coterie::serve
