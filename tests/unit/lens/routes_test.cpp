#include "lens/routes.h"

#include <gtest/gtest.h>

#include <fstream>
#include <list>
#include <map>
#include <set>

#include "base/error.h"
#include "lens/fitted_routes.h"
#include "lens/route_feed.h"
#include "runtime/engine.h"
#include "support/places.h"
#include "support/temp_folder.h"

namespace coterie::lens {
namespace {

const std::string kRoutes = tests::source_folder() + "/../examples/routes/";

/// Percent of a token's experts that were met so many tokens before, too.
double reuse(const Routes& routes, int64_t lag) {
  int64_t again = 0, all = 0;
  for (int64_t t = lag; t < routes.tokens(); ++t)
    for (int64_t l = 0; l < routes.layers; ++l) {
      const auto before = routes.at(t - lag, l);
      const std::set<int16_t> met(before.begin(), before.end());
      for (const int16_t e : routes.at(t, l)) again += met.contains(e), ++all;
    }
  return 100.0 * static_cast<double>(again) / static_cast<double>(all);
}

/// Percent of hits of a cache of so large a share of all experts that forgets the one used least recently, over the
/// last two thirds of the tokens.
double lru_hits(const Routes& routes, double share) {
  const auto capacity = static_cast<size_t>(share * static_cast<double>(routes.layers * routes.experts));
  std::list<int64_t> order;  // the last used in front
  std::map<int64_t, std::list<int64_t>::iterator> places;
  int64_t hits = 0, all = 0;
  for (int64_t t = 0; t < routes.tokens(); ++t)
    for (int64_t l = 0; l < routes.layers; ++l)
      for (const int16_t e : routes.at(t, l)) {
        const int64_t key = l * routes.experts + e;
        const auto found = places.find(key);
        if (t >= routes.tokens() / 3) ++all, hits += found != places.end();
        if (found != places.end()) order.erase(found->second);
        order.push_front(key), places[key] = order.begin();
        if (order.size() > capacity) places.erase(order.back()), order.pop_back();
      }
  return 100.0 * static_cast<double>(hits) / static_cast<double>(all);
}

TEST(Routes, RecordedOnesAreRead) {
  const Routes qwen = read_routes(kRoutes + "qwen.jsonl");
  EXPECT_EQ(qwen.layers, 48);
  EXPECT_EQ(qwen.experts, 128);
  EXPECT_EQ(qwen.choices, 6);
  EXPECT_EQ(qwen.tokens(), 156);
  EXPECT_EQ(qwen.sequences(), 1);
  EXPECT_EQ(qwen.prompt.front(), 28);
  EXPECT_EQ(qwen.expert_bytes, (2654208 + 3059712) / 2);
  EXPECT_EQ(qwen.at(0, 0).front(), 49);
  EXPECT_EQ(qwen.at(0, 47).front(), -1);  // a prompt's tokens but the last skip the last layer
  EXPECT_GE(qwen.at(27, 47).front(), 0);
  const Routes olmoe = read_routes(kRoutes + "olmoe.jsonl");
  EXPECT_EQ(olmoe.layers, 16);
  EXPECT_EQ(olmoe.tokens(), 299);
  EXPECT_EQ(olmoe.prompt.front(), 0);
  EXPECT_EQ(olmoe.expert_bytes, 0);
}

TEST(Routes, APromptBehindAnAnswerBeginsASequence) {
  TempFolder folder;
  std::ofstream(folder / "r.jsonl") << R"({"experts": 4, "k": 2})"
                                       "\n"
                                    << R"({"phase": 0, "experts": [[0, 1]]})"
                                       "\n"
                                    << R"({"phase": 1, "experts": [[2]]})"
                                       "\n"
                                    << R"({"phase": 0, "experts": [[3, 1]]})"
                                       "\n";
  const Routes routes = read_routes(folder / "r.jsonl");
  EXPECT_EQ(routes.sequence_begin, (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(routes.prompt, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(routes.at(1, 0)[1], -1);
}

TEST(Routes, FilesThatContradictThemselvesAreRefusedByLine) {
  TempFolder folder;
  const auto refused = [&](const std::string& text, const std::string& words) {
    std::ofstream(folder / "bad.jsonl") << text;
    try {
      read_routes(folder / "bad.jsonl");
      ADD_FAILURE() << text;
    } catch (const base::Error& error) {
      EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
      EXPECT_NE((error.where() + ": " + error.message()).find(words), std::string::npos) << error.message();
    }
  };
  const std::string head = "{\"experts\": 4, \"k\": 2}\n";
  refused(head, "no token");
  refused("{\"experts\": 4, \"k\": 5}\n", "line 1");
  refused(head + "{\"experts\": [[0, 4]]}\n", "4 is not one of 4");
  refused(head + "{\"experts\": [[0, 0]]}\n", "twice");
  refused(head + "{\"experts\": [[0, 1, 2]]}\n", "at most 2");
  refused(head + "{\"experts\": [[0, 1]]}\n{\"experts\": [[0], [1]]}\n", "line 3: has 2 layers of 1");
  refused(head + "{\"experts\": []}\n", "line 2");
  refused(head + "[1]\n", "not a JSON object");
  EXPECT_THROW(read_routes(folder / "absent.jsonl"), base::Error);
}

// The figures that the parameters were fitted for: percent of reuse at lags of 1, 2, 8 and 64 tokens, and of LRU's
// hits.
TEST(FittedRoutes, ComeBackAsThoseOfPublishedModelsDo) {
  const Routes olmoe = fitted_routes(fitted_routing("olmoe"), 16, 64, 8, 299, 1);
  const Routes qwen = fitted_routes(fitted_routing("qwen3"), 24, 128, 6, 300, 1);
  const auto expect = [](const Routes& routes, std::vector<double> lags, std::vector<std::pair<double, double>> hits) {
    size_t i = 0;
    for (const int64_t lag : {1, 2, 8, 64}) EXPECT_NEAR(reuse(routes, lag), lags[i++], 3.5) << "lag " << lag;
    for (const auto& [share, percent] : hits) EXPECT_NEAR(lru_hits(routes, share), percent, 3.5) << share;
  };
  expect(olmoe, {43, 34, 25, 21}, {{0.2, 49.6}, {0.3, 63.5}, {0.4, 73.2}, {0.5, 80.3}});
  expect(qwen, {38.7, 29.6, 23.5, 21.8}, {{0.1, 52.8}, {0.2, 75.9}, {0.3, 86.6}, {0.4, 92.0}});
  // And those of the recorded routes themselves, within what a generator of five numbers can do.
  const Routes recorded = read_routes(kRoutes + "olmoe.jsonl");
  EXPECT_NEAR(reuse(recorded, 1), reuse(olmoe, 1), 3);
  EXPECT_NEAR(lru_hits(recorded, 0.4), lru_hits(olmoe, 0.4), 3);
}

TEST(FittedRoutes, AreTheSameForTheSameSeedAndDistinctInAToken) {
  const FittedRouting& fitted = fitted_for(8);
  EXPECT_EQ(fitted.name, "olmoe");
  EXPECT_EQ(fitted_for(128).name, "qwen3");
  const Routes a = fitted_routes(fitted, 3, 8, 3, 50, 5), b = fitted_routes(fitted, 3, 8, 3, 50, 5);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_NE(a.ids, fitted_routes(fitted, 3, 8, 3, 50, 6).ids);
  for (int64_t t = 0; t < 50; ++t)
    for (int64_t l = 0; l < 3; ++l) {
      const auto ids = a.at(t, l);
      EXPECT_EQ(std::set<int16_t>(ids.begin(), ids.end()).size(), 3u);
    }
  EXPECT_THROW(fitted_routing("gpt"), base::Error);
}

TEST(RouteFeed, TokensGoWhereTheRoutesWentFromAnyPosition) {
  const Routes routes = fitted_routes(fitted_for(8), 2, 8, 2, 10, 1);
  const RouterShape model{.layers = {1, 3}, .experts = {8, 8}, .choices = 2, .scores = {}};
  RouteFeed feed(routes, model);
  feed.start(100, 8);  // the tokens 8, 9, and 0 again
  std::vector<int32_t> ids(6, -1);
  std::vector<float> weights = {1, 2, 3, 4, 5, 6};
  feed.choices(3, 100, 3, ids, weights);
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 2; ++c)
      EXPECT_EQ(ids[static_cast<size_t>(2 * r + c)], routes.at((8 + r) % 10, 1)[static_cast<size_t>(c)]);
  EXPECT_EQ(weights, (std::vector<float>{1, 2, 3, 4, 5, 6}));

  RouterShape other = model;
  other.choices = 3;
  EXPECT_THROW(RouteFeed(routes, other), base::Error);
  other = model, other.experts = {8, 9};
  EXPECT_THROW(RouteFeed(routes, other), base::Error);
  other = {.layers = {0, 1, 2}, .experts = {8, 8, 8}, .choices = 2, .scores = {}};
  EXPECT_THROW(RouteFeed(routes, other), base::Error);
}

TEST(RouteFeed, AModelSendsItsTokensThere) {
  runtime::EngineOptions options;
  options.threads = 1;
  runtime::Engine engine(families::open_model(tests::source_folder() + "/../models/coterie-small.gguf"), options);
  const RouterShape shape = router_shape(engine.spec());
  const Routes routes = fitted_routes(fitted_for(16), shape.count(), shape.experts.front(), shape.choices, 9, 1);
  RouteFeed feed(routes, shape);
  ChoiceRecorder recorder(shape);
  runtime::KvCache cache = engine.make_cache();
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9, 10, 11};
  for (const auto& [first, count] : {std::pair<size_t, size_t>{0, 4}, {4, 3}}) {
    feed.start(cache.length(), 2 + cache.length());
    const models::SequenceStep step{.ids = std::span(ids).subspan(first, count), .state = &cache, .routers = &feed};
    engine.evaluate({&step, 1}, {.observer = &recorder});
  }
  const auto begin = routes.ids.begin() + 2 * shape.count() * shape.choices;
  EXPECT_EQ(recorder.choices().experts, std::vector<int16_t>(begin, routes.ids.end()));
}

}  // namespace
}  // namespace coterie::lens
