// Hidden states that come to one vector, whoever else is answered meanwhile.
#include <gtest/gtest.h>

#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

namespace coterie::serve {
namespace {

using runtime::test::tiny_model;
using test::Answer;
using test::ids_of;
using test::Served;

Request embedded(std::vector<TokenId> prompt, Request::Pooling pooling) {
  Request request = test::greedy(std::move(prompt), 0);
  request.pooling = pooling;
  return request;
}

/// Of all positions, after the final norm.
std::vector<std::vector<double>> states_of(const std::vector<TokenId>& prompt) {
  runtime::EngineOptions options;
  options.threads = 1;
  runtime::Engine engine(tiny_model(), options);
  runtime::KvCache cache = engine.make_cache();
  const models::SequenceStep step{.ids = prompt, .state = &cache, .logits = models::SequenceStep::Logits::all};
  const tensor::Matrix states = engine.evaluate({&step, 1}, {.hidden = true});
  std::vector<std::vector<double>> all;
  for (int64_t r = 0; r < states.rows; ++r) all.emplace_back(states.row(r), states.row(r) + states.cols);
  return all;
}

TEST(Embedding, IsTheMeanOrTheLastState) {
  Served served(tiny_model());
  const std::vector<TokenId> prompt = ids_of(40, 1);
  const auto states = states_of(prompt);
  const Answer last = served.run(embedded(prompt, Request::Pooling::last));
  ASSERT_TRUE(last.finished);
  EXPECT_EQ(last.finished->embedding, states.back());
  std::vector<double> mean(states[0].size());
  for (const auto& state : states)
    for (size_t d = 0; d < mean.size(); ++d) mean[d] += state[d];
  for (double& value : mean) value /= 40;
  const Answer of_all = served.run(embedded(prompt, Request::Pooling::mean));
  EXPECT_EQ(of_all.finished->embedding, mean);
  EXPECT_EQ(of_all.finished->usage.completion_tokens, 0);
  EXPECT_EQ(of_all.finished->usage.cached_tokens, 0);
  EXPECT_TRUE(of_all.ids.empty());
}

TEST(Embedding, NoCompanyAndNoCutChangesABit) {
  const std::vector<TokenId> prompt = ids_of(90, 2);
  const Answer alone = Served(tiny_model()).run(embedded(prompt, Request::Pooling::mean));
  runtime::EngineOptions engine;
  engine.step_tokens = 32;
  Served served(tiny_model(), {}, engine);
  std::vector<std::shared_ptr<test::Collector>> others, same;
  for (uint64_t i = 0; i < 3; ++i) {
    others.push_back(served.submit(test::greedy(ids_of(30, i + 5), 20)).second);
    same.push_back(served.submit(embedded(prompt, Request::Pooling::mean)).second);
  }
  for (const auto& each : same) EXPECT_EQ(each->wait().finished->embedding, alone.finished->embedding);
  for (const auto& each : others) EXPECT_EQ(each->wait().ids.size(), 20U);
}

TEST(Embedding, OfARequestThatAnswersIsRefused) {
  Served served(tiny_model());
  Request request = embedded(ids_of(4, 1), Request::Pooling::mean);
  request.max_tokens = 3;
  EXPECT_THROW(served.submit(std::move(request)), base::Error);
}

}  // namespace
}  // namespace coterie::serve
