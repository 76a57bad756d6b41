#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "families/ensemble/ensemble_model.h"
#include "lens/router_change.h"
#include "runtime/ensemble_parts.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

// What a request is told of an ensemble: which model answered each token, and the experts within the models.
namespace coterie::serve {
namespace {

using runtime::test::fixture;
using test::Answer;
using test::greedy;
using test::ids_of;
using test::Served;

/// A model twice behind a gate, which reads by rows that differ from token to token, or is uniform.
families::Model twice(const std::string& name, families::Gate::Kind kind) {
  families::Gate gate;
  gate.kind = kind, gate.top_k = 2;
  gate.models = {fixture(name), fixture(name)};
  if (gate.reads()) {
    const models::ModelSpec spec = families::read_spec(checkpoint::resolve_model(fixture(name)));
    base::Rng rng(5);
    for (std::vector<float>& row : gate.rows = std::vector<std::vector<float>>(2)) {
      row.resize(static_cast<size_t>(spec.width));
      for (float& v : row) v = rng.normal();
    }
    gate.bias = {0, 0};
  }
  return families::open_ensemble(gate, "/").model;
}

Request traced(Request request) {
  request.tells_routes = true;
  return request;
}

TEST(Gated, EachTokenSaysWhatTheGateGaveTheModels) {
  Served served(twice("qwen3-moe", families::Gate::Kind::token));
  const Request request = traced(greedy(ids_of(20, 3), 9));
  // Beside others, whose rows of logits stand before and behind its own.
  std::vector<std::shared_ptr<test::Collector>> all;
  for (const Request& each : {greedy(ids_of(9, 1), 12), request, traced(greedy(ids_of(31, 2), 12))})
    all.push_back(served.submit(each).second);
  const Answer first = all[0]->wait(), answer = all[1]->wait();
  all[2]->wait();
  for (const std::vector<float>& weights : first.model_weights) EXPECT_TRUE(weights.empty()) << "nobody asked";

  // The same tokens by the engine alone.
  runtime::EngineOptions options;
  options.threads = 1;
  runtime::Engine engine(twice("qwen3-moe", families::Gate::Kind::token), options);
  std::vector<float> heard;
  const auto listens = runtime::listen_to_gate(
      engine, [&](tensor::ConstMatrix rows) { heard.assign(rows.data, rows.data + rows.rows * rows.cols); });
  ASSERT_TRUE(listens);
  std::vector<TokenId> ids = request.prompt;
  ids.insert(ids.end(), answer.ids.begin(), answer.ids.end() - 1);
  runtime::KvCache cache = engine.make_cache();
  const models::SequenceStep step = {
      .ids = ids, .state = &cache, .logits = models::SequenceStep::Logits::all, .length = std::ssize(ids)};
  engine.evaluate({&step, 1});
  ASSERT_EQ(answer.model_weights.size(), 9U);
  bool differs = false;
  for (size_t t = 0; t < answer.model_weights.size(); ++t) {
    const std::vector<float>& weights = answer.model_weights[t];
    ASSERT_EQ(weights.size(), 2U);
    EXPECT_NEAR(weights[0] + weights[1], 1, 1e-6);
    EXPECT_EQ(weights[0], heard[2 * (request.prompt.size() - 1 + t)]) << t;
    differs |= weights[0] != answer.model_weights[0][0];
  }
  EXPECT_TRUE(differs) << "the gate reads";
}

TEST(Gated, ExpertsAreThoseOfAllModelsAndCanBeSilenced) {
  Served served(twice("qwen3-moe", families::Gate::Kind::uniform));
  const runtime::EnsembleParts gated = runtime::ensemble_parts(*served.engine);
  ASSERT_EQ(gated.count(), 2);
  const int64_t half = std::ssize(served.engine->spec().blocks) / 2;
  EXPECT_EQ(gated.place(half), std::pair(int64_t{1}, int64_t{0}));
  EXPECT_EQ(gated.place(half - 1), std::pair(int64_t{0}, half - 1));
  Request request = traced(greedy(ids_of(20, 3), 4));
  const Answer answer = served.run(request);
  ASSERT_FALSE(answer.routes.empty());
  const RoutesKnown& routes = answer.routes.front();
  const int64_t own = routes.layers / 2;
  for (int64_t p = 0; p < routes.positions; ++p)
    for (int64_t i = 0; i < own * routes.experts_per_token; ++i)
      ASSERT_EQ(routes.experts[static_cast<size_t>(2 * p * own * routes.experts_per_token + i)],
                routes.experts[static_cast<size_t>((2 * p + 1) * own * routes.experts_per_token + i)])
          << "one model twice";
  for (const std::vector<float>& weights : answer.model_weights) EXPECT_EQ(weights, (std::vector<float>{0.5F, 0.5F}));

  const uint16_t first = routes.experts[static_cast<size_t>(own * routes.experts_per_token)];
  const lens::RouterChange change = {.silenced = {{half, {first}}}};
  request.routers = std::make_shared<lens::ChangedRouters>(served.engine->spec(), change);
  request.routers_key = change.key();
  const Answer silenced = served.run(request);
  const RoutesKnown& now = silenced.routes.front();
  EXPECT_EQ(now.experts[0], first) << "of the first model it still has a token";
  for (int64_t k = 0; k < now.experts_per_token; ++k)
    EXPECT_NE(now.experts[static_cast<size_t>(own * now.experts_per_token + k)], first);
}

TEST(Gated, DenseModelsAreToldToo) {
  Served served(twice("llama", families::Gate::Kind::uniform));
  const Answer answer = served.run(traced(greedy(ids_of(5, 1), 3)));
  ASSERT_EQ(answer.model_weights.size(), 3U);
  EXPECT_EQ(answer.model_weights.front(), (std::vector<float>{0.5F, 0.5F}));
  EXPECT_TRUE(answer.routes.empty());
  Request routed = greedy(ids_of(5, 1));
  routed.routed_experts = true;
  EXPECT_THROW(served.run(routed), base::Error);
}

TEST(Places, SayWhereEachExpertLies) {
  Served resident(twice("qwen3-moe", families::Gate::Kind::uniform));
  resident.run(greedy(ids_of(5, 1)));
  const Snapshot all = resident.settled();
  ASSERT_EQ(all.expert_places.size(), all.counters.expert_tokens.size()) << "those of the second model by themselves";
  for (size_t layer = 0; layer < all.expert_places.size(); ++layer) {
    EXPECT_EQ(all.expert_places[layer].size(), all.counters.expert_tokens[layer].size());
    for (const uint8_t where : all.expert_places[layer])
      EXPECT_LT(where, static_cast<uint8_t>(runtime::Where::slot)) << "in memory";
  }
}

TEST(Places, AreOnTheDiskWhereExpertsAreRead) {
  runtime::EngineOptions options;
  options.expert_memory = 1;  // as few slots as the model runs with
  Served served(families::open_model(fixture("qwen3-moe")), {}, options);
  const Answer answer = served.run(traced(greedy(ids_of(20, 3), 6)));
  int64_t bytes = 0, positions = 0;
  for (const RoutesKnown& piece : answer.routes) {
    ASSERT_GE(piece.disk_bytes, 0);
    EXPECT_EQ(piece.step_tokens, piece.positions) << "nobody else took part";
    bytes += piece.disk_bytes, positions += piece.positions;
  }
  EXPECT_EQ(positions, 25);
  const Snapshot now = served.settled();
  int64_t here = 0, away = 0;
  for (const std::vector<uint8_t>& layer : now.expert_places)
    for (const uint8_t where : layer) (where == static_cast<uint8_t>(runtime::Where::disk) ? away : here) += 1;
  EXPECT_GT(away, 0);
  EXPECT_GT(here, 0);
  const runtime::StreamFigures& figures = served.engine->bytes().store()->figures();
  EXPECT_EQ(bytes, figures.decode.bytes + figures.prompt.bytes) << "all that was read is told";
  EXPECT_GT(bytes, 0);
}

}  // namespace
}  // namespace coterie::serve
