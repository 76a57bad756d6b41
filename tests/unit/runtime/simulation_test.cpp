#include "runtime/simulation.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "lens/fitted_routes.h"
#include "support/places.h"

namespace coterie::runtime {
namespace {

const std::string kRoutes = tests::source_folder() + "/../examples/routes/";

double hits(const lens::Routes& routes, double share) {
  const auto slots = static_cast<int64_t>(share * static_cast<double>(routes.layers * routes.experts));
  return 100 * simulate(routes, {.slots = slots, .warm_up = routes.tokens() / 3, .prompt = 0}).decode.hit_share();
}

// Measured by others and by a replay in Python (aged LFU with counts halved every 64 tokens), which says ± a few
// points.
TEST(Simulation, HitsOfRecordedRoutesAreThoseOfTheReplays) {
  const lens::Routes qwen = lens::read_routes(kRoutes + "qwen.jsonl");
  EXPECT_NEAR(hits(qwen, 0.1), 53, 3);
  EXPECT_NEAR(hits(qwen, 0.2), 77, 3);
  EXPECT_NEAR(hits(qwen, 0.3), 90, 3);
  const lens::Routes olmoe = lens::read_routes(kRoutes + "olmoe.jsonl");
  EXPECT_NEAR(hits(olmoe, 0.1), 34, 4);  // below one token's set, where LRU has none
  EXPECT_NEAR(hits(olmoe, 0.2), 50, 4);
  EXPECT_NEAR(hits(olmoe, 0.4), 72, 4);
}

TEST(Simulation, MoreMemoryHitsMoreAndAllOfItMissesWhatIsNew) {
  const lens::Routes routes = lens::fitted_routes(lens::fitted_for(64), 6, 64, 8, 200, 3);
  double before = 0;
  for (const double share : {0.2, 0.4, 0.6, 0.8, 1.0}) {
    const double now = hits(routes, share);
    EXPECT_GT(now, before);
    before = now;
  }
  const Simulation all = simulate(routes, {.slots = 6 * 64});
  EXPECT_LE(all.decode.misses, 6 * 64);
  EXPECT_EQ(all.decode.tokens, 200);
  EXPECT_EQ(all.decode.hits + all.decode.misses, 200 * 6 * 8);
}

TEST(Simulation, PromptsAreReadInStepsAndCountedApart) {
  lens::Routes routes = lens::fitted_routes(lens::fitted_for(16), 4, 16, 2, 100, 3);
  routes.sequence_begin = {0, 60, 100}, routes.prompt = {30, 0};
  const Simulation said = simulate(routes, {.slots = 30, .step_tokens = 16});
  EXPECT_EQ(said.prompt.tokens, 16);  // the other 14 are too few for a prompt
  EXPECT_EQ(said.decode.tokens, 84);
  const Simulation asked = simulate(routes, {.slots = 30, .prompt = 20});
  EXPECT_EQ(asked.prompt.tokens, 40);
  EXPECT_EQ(asked.decode.tokens, 60);
  EXPECT_LE(asked.prompt.hits + asked.prompt.misses, 2 * 4 * 16);  // an expert once a step, whatever its tokens
  const Simulation warmed = simulate(routes, {.slots = 30, .warm_up = 60});
  EXPECT_EQ(warmed.decode.tokens, 40);
  EXPECT_EQ(warmed.prompt.tokens, 0);
  // An answer finds what the prompt's last tokens met, as if they had been read one by one, and more than in empty
  // slots.
  lens::Routes one = lens::fitted_routes(lens::fitted_for(64), 8, 64, 4, 84, 3);
  const auto misses = [&](int64_t prompt) {
    return simulate(one, {.slots = 200, .warm_up = 64, .prompt = prompt}).decode.misses;
  };
  const int64_t after_prompt = misses(64), after_tokens = misses(0);
  EXPECT_LT(after_prompt, 1.1 * static_cast<double>(after_tokens));
  one.ids.erase(one.ids.begin(), one.ids.begin() + 64 * 8 * 4);
  one.sequence_begin = {0, 20};
  EXPECT_LT(after_prompt, 0.8 * static_cast<double>(simulate(one, {.slots = 200}).decode.misses));
}

TEST(Simulation, WhatCannotRunOrCountIsRefused) {
  const lens::Routes routes = lens::fitted_routes(lens::fitted_for(16), 4, 16, 2, 20, 3);
  EXPECT_THROW(simulate(routes, {.slots = 3}), base::Error);
  EXPECT_NO_THROW(simulate(routes, {.slots = 4}));
  EXPECT_THROW(simulate(routes, {.slots = 10, .warm_up = 20}), base::Error);
  EXPECT_THROW(simulate(routes, {.slots = 10, .step_tokens = 0}), base::Error);
}

TEST(StreamSpeed, IsTheSlowerOfReadingAndComputing) {
  Simulation run;
  run.layers = 2, run.choices = 4;
  run.decode.tokens = 1;
  run.layers_missing = {1, 0, 1, 0, 0};  // one layer misses none, one two
  // 1 s a layer computed, 3 s an expert read: 1 + max(0.5, 6) + 0.25
  EXPECT_DOUBLE_EQ(seconds_per_token(run, {300, 100, 2}), 1 + 6 + 0.25);
  EXPECT_DOUBLE_EQ(seconds_per_token(run, {300, 100, 0}), 6);
  // What is guessed waits for nothing but the disk, or the arithmetic.
  EXPECT_DOUBLE_EQ(seconds_per_token(run, {300, 100, 2, 1}), 6);
  EXPECT_DOUBLE_EQ(seconds_per_token(run, {300, 100, 20, 1}), 20);
  EXPECT_DOUBLE_EQ(seconds_per_token(run, {300, 100, 2, 0.5}), (7.25 + 6) / 2);
  EXPECT_DOUBLE_EQ(seconds_at_hit_share(0.5, 8, {100, 100, 2}), 4);
  EXPECT_DOUBLE_EQ(seconds_at_hit_share(0.9, 8, {100, 100, 2}), 2);
}

}  // namespace
}  // namespace coterie::runtime
