#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "base/error.h"
#include "lens/choices.h"
#include "lens/router_change.h"
#include "tensor/half.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

// What a request is told of its routers, and what it changes of them.
namespace coterie::serve {
namespace {

using runtime::test::fixture;
using test::Answer;
using test::greedy;
using test::ids_of;
using test::Served;

/// The pieces of an answer put together; each goes on where the last one ended.
RoutesKnown joined(const Answer& answer) {
  RoutesKnown all;
  for (const RoutesKnown& piece : answer.routes) {
    EXPECT_EQ(piece.first, all.positions);
    all.positions += piece.positions;
    all.layers = piece.layers, all.experts_per_token = piece.experts_per_token;
    all.experts.insert(all.experts.end(), piece.experts.begin(), piece.experts.end());
    all.weights.insert(all.weights.end(), piece.weights.begin(), piece.weights.end());
    all.entropy.insert(all.entropy.end(), piece.entropy.begin(), piece.entropy.end());
  }
  return all;
}

Request traced(Request request) {
  request.tells_routes = request.routed_experts = true;
  return request;
}

TEST(Routes, AreThoseOfThePlanAndOfTheTrace) {
  Served served(families::open_model(fixture("qwen3-moe")));
  const Request request = traced(greedy(ids_of(40, 3), 8));
  const Answer answer = served.run(request);
  const RoutesKnown routes = joined(answer);
  ASSERT_EQ(routes.positions, 47) << "all but the last token, which nothing was computed of";
  EXPECT_EQ(routes.experts, answer.finished->routed_experts.experts);

  // The same tokens by the engine alone, as `coterie trace` watches it.
  runtime::EngineOptions options;
  options.threads = 1;
  runtime::Engine engine(families::open_model(fixture("qwen3-moe")), options);
  lens::ChoiceRecorder recorder(lens::router_shape(engine.spec()));
  std::vector<TokenId> ids = request.prompt;
  ids.insert(ids.end(), answer.ids.begin(), answer.ids.end() - 1);
  runtime::KvCache cache = engine.make_cache();
  cache.make_room(std::ssize(ids));
  const models::SequenceStep step = {.ids = ids, .state = &cache, .length = std::ssize(ids)};
  engine.evaluate({&step, 1}, {.observer = &recorder});
  const lens::Choices& choices = recorder.choices();
  ASSERT_EQ(choices.experts.size(), routes.experts.size());
  for (size_t i = 0; i < choices.experts.size(); ++i) {
    ASSERT_EQ(choices.experts[i], static_cast<int16_t>(routes.experts[i])) << i;
    ASSERT_EQ(tensor::f32_to_f16(choices.weights[i]), routes.weights[i]) << i;
  }
  for (size_t i = 0; i < choices.entropy.size(); ++i)
    ASSERT_EQ(tensor::f32_to_f16(choices.entropy[i]), routes.entropy[i]) << i;
}

TEST(Routes, OfCachedPositionsAreTrue) {
  Served served(families::open_model(fixture("qwen3-moe")));
  const Request request = traced(greedy(ids_of(70, 8), 6));
  const Answer first = served.run(request), second = served.run(request);
  EXPECT_EQ(second.finished->usage.cached_tokens, 64);
  const RoutesKnown a = joined(first), b = joined(second);
  EXPECT_EQ(a.positions, 75);
  EXPECT_EQ(a.experts, b.experts);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.entropy, b.entropy);
  EXPECT_EQ(served.run(greedy(ids_of(70, 8), 6)).routes.size(), 0U) << "nobody asked";
}

TEST(Routes, AreRefusedWhereThereAreNone) {
  Served dense(families::open_model(fixture("llama")));
  EXPECT_THROW(dense.run(traced(greedy(ids_of(5, 1)))), base::Error);
}

Request changed(Request request, const models::ModelSpec& spec, const lens::RouterChange& change) {
  request.routers = std::make_shared<lens::ChangedRouters>(spec, change);
  request.routers_key = change.key();
  request.routers_draw = change.sample.has_value();
  return request;
}

void expect_same(const Answer& a, const Answer& b) {
  ASSERT_TRUE(a.finished && b.finished);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.logprobs, b.logprobs);
  const RoutesKnown x = joined(a), y = joined(b);
  ASSERT_EQ(x.positions, y.positions);
  for (int64_t row = 0; row < x.positions * x.layers; ++row)
    for (int64_t k = 0; k < std::min(x.experts_per_token, y.experts_per_token); ++k) {
      ASSERT_EQ(x.experts[static_cast<size_t>(row * x.experts_per_token + k)],
                y.experts[static_cast<size_t>(row * y.experts_per_token + k)]);
      ASSERT_EQ(x.weights[static_cast<size_t>(row * x.experts_per_token + k)],
                y.weights[static_cast<size_t>(row * y.experts_per_token + k)]);
    }
}

// A request that changes its routers answers as a model that was opened so, whoever runs beside it, and they answer as
// ever: to the bit, cached or not.
TEST(Routes, AChangeIsARequestsOwnAndThatOfAnOption) {
  for (const char* name : {"qwen3-moe", "gpt-oss", "deepseek-v3"}) {
    SCOPED_TRACE(name);
    Served served(families::open_model(fixture(name)));
    const models::ModelSpec& spec = served.engine->spec();
    Request plain = traced(greedy(ids_of(40, 5), 10));
    plain.logprobs = 0;
    plain.sampler.seed = 11;
    const Answer alone = served.run(plain);
    const Request fewer = changed(plain, spec, {.silenced = {}, .experts_per_token = 1});
    const Request drawn = changed(plain, spec, {.silenced = {}, .sample = 1.5F});
    std::vector<std::shared_ptr<test::Collector>> all;
    for (const Request& each : {plain, fewer, plain, drawn, fewer, drawn}) all.push_back(served.submit(each).second);
    std::vector<Answer> answers;
    for (const auto& each : all) answers.push_back(each->wait());
    expect_same(answers[0], alone);
    expect_same(answers[2], alone);
    expect_same(answers[4], answers[1]);
    expect_same(answers[5], answers[3]);
    EXPECT_NE(joined(answers[1]).experts, joined(alone).experts);
    EXPECT_NE(joined(answers[3]).experts, joined(alone).experts);

    families::OpenOptions open_fewer, open_drawn;
    open_fewer.experts_per_token = 1;
    open_drawn.router_sample = 1.5F;
    Served one(families::open_model(fixture(name), open_fewer)),
        random(families::open_model(fixture(name), open_drawn));
    expect_same(answers[1], one.run(plain));
    expect_same(answers[3], random.run(plain));
  }
}

TEST(Routes, SilencedExpertsGetNothingAndShareNothing) {
  Served served(families::open_model(fixture("qwen3-moe")));
  const Request plain = traced(greedy(ids_of(80, 6), 4));
  served.run(plain);
  const lens::RouterChange change = {.silenced = {{0, {1, 3}}}, .experts_per_token = 2};
  const Answer silenced = served.run(changed(plain, served.engine->spec(), change));
  EXPECT_EQ(silenced.finished->usage.cached_tokens, 0);
  const RoutesKnown routes = joined(silenced);
  for (int64_t p = 0; p < routes.positions; ++p)
    for (int64_t k = 0; k < routes.experts_per_token; ++k) {
      const uint16_t expert = routes.experts[static_cast<size_t>(p * routes.layers * routes.experts_per_token + k)];
      EXPECT_NE(expert, 1);
      EXPECT_NE(expert, 3);
      EXPECT_EQ(expert == 65535, k >= 2);
    }
  // The seed belongs to what draws.
  Request drawn = changed(plain, served.engine->spec(), {.silenced = {}, .sample = 1.0F});
  served.run(drawn);
  EXPECT_EQ(served.run(drawn).finished->usage.cached_tokens, 64);
  drawn.sampler.seed = 77;
  EXPECT_EQ(served.run(drawn).finished->usage.cached_tokens, 0);
}

TEST(Routes, ChangesThatCannotBeAreRefused) {
  const auto spec = families::read_spec(checkpoint::resolve_model(fixture("qwen3-moe")));
  const auto dense = families::read_spec(checkpoint::resolve_model(fixture("llama")));
  const auto refused = [](const models::ModelSpec& of, const lens::RouterChange& change) {
    try {
      lens::ChangedRouters hook(of, change);
    } catch (const base::Error& error) {
      return error.message();
    }
    return std::string("not refused");
  };
  EXPECT_NE(refused(spec, {.silenced = {}, .experts_per_token = 1000}).find("takes 1 to"), std::string::npos);
  EXPECT_NE(refused(spec, {.silenced = {{0, {9999}}}}).find("has no expert 9999"), std::string::npos);
  EXPECT_NE(refused(spec, {.silenced = {{99, {0}}}}).find("layer 99"), std::string::npos);
  EXPECT_NE(refused(dense, {.silenced = {}, .sample = 1.0F}).find("has none"), std::string::npos);
  models::ModelSpec choosers = spec;
  for (models::BlockSpec& block : choosers.blocks)
    if (auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      moe->router.selection = layers::RouterSpec::Selection::expert_choice;
  EXPECT_NE(refused(choosers, {.silenced = {}, .sample = 1.0F}).find("all tokens together"), std::string::npos);
}

}  // namespace
}  // namespace coterie::serve
