#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "library/small_model.h"

namespace coterie {
namespace {

using test::error_of;
using test::greedy;
using test::small;
using Kind = Error::Kind;

std::vector<int32_t> story() {
  return small().tokenize("One day, a little girl named Lily went to the park with her mom");
}

std::vector<double> log_softmax(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
  std::vector<double> result;
  for (const float x : logits) result.push_back(static_cast<double>(x) - top - std::log(sum));
  return result;
}

TEST(PublicSession, KeepsWhatItHasRead) {
  Session session = small().session();
  EXPECT_EQ(session.length(), 0);
  EXPECT_TRUE(session.finished());
  EXPECT_EQ(session.finish(), Finish::not_yet);
  const std::vector<int32_t> ids = story();
  const Generated first = session.generate(ids, greedy(4));
  EXPECT_EQ(first.reused_tokens, 0);
  EXPECT_EQ(first.prompt_tokens, std::ssize(ids));
  EXPECT_EQ(session.length(), std::ssize(ids) + 3) << "the last token was never needed";
  std::vector<int32_t> longer = ids;
  longer.insert(longer.end(), first.tokens.begin(), first.tokens.end());
  EXPECT_TRUE(std::equal(longer.begin(), longer.end() - 1, session.tokens().begin()));
  const Generated second = session.generate(longer, greedy(4));
  EXPECT_EQ(second.reused_tokens, std::ssize(longer) - 1);
  EXPECT_EQ(second.tokens, small().generate(longer, greedy(4)).tokens);
  EXPECT_EQ(session.truncate(2), 2);
  EXPECT_EQ(session.tokens(), std::vector<int32_t>(ids.begin(), ids.begin() + 2));
  EXPECT_EQ(error_of([&] { (void)session.truncate(3); }).kind(), Kind::bad_input);
}

TEST(PublicSession, SessionsTakeStepsTogetherAsEachAlone) {
  const std::vector<std::string> prompts = {"One day", "The dog was very", "Tom and his sister Amy like to"};
  std::vector<Session> sessions;
  std::vector<std::string> streamed(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    sessions.push_back(small().session());
    sessions[i].start(prompts[i], greedy(6), [&streamed, i](std::string_view text) { streamed[i] += text; });
  }
  int steps = 0;
  for (; !sessions[0].finished() || !sessions[1].finished() || !sessions[2].finished(); ++steps)
    step({&sessions[0], &sessions[1], &sessions[2]});
  EXPECT_EQ(steps, 6);
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(sessions[i].generated().tokens, small().generate(prompts[i], greedy(6)).tokens);
    EXPECT_EQ(sessions[i].generated().text, streamed[i]);
  }
  step({&sessions[0]});  // nothing to do
  EXPECT_EQ(error_of([&] { step({&sessions[0], nullptr}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([&] { step({&sessions[0], &sessions[0]}); }).kind(), Kind::bad_input);
  Session other = Model::load(test::fixture("mixtral"), {.threads = 1}).session();
  EXPECT_EQ(error_of([&] { step({&sessions[0], &other}); }).kind(), Kind::bad_input);
}

TEST(PublicSession, OneFailsAndOneIsCancelledAndTheThirdGoesOn) {
  Session fails = small().session(), leaves = small().session(), stays = small().session();
  struct Gone {};
  fails.start("One day", greedy(8), [](std::string_view) { throw Gone(); });
  leaves.start("The dog", greedy(8));
  stays.start("Tom and", greedy(8));
  step({&fails, &leaves, &stays});
  leaves.cancel();
  while (!stays.finished()) step({&fails, &leaves, &stays});
  EXPECT_EQ(fails.finish(), Finish::failed);
  EXPECT_THROW(std::rethrow_exception(fails.error()), Gone);
  EXPECT_EQ(leaves.finish(), Finish::interrupted);
  EXPECT_EQ(leaves.generated().tokens.size(), 1u);
  EXPECT_EQ(leaves.error(), nullptr);
  EXPECT_EQ(stays.generated().tokens, small().generate("Tom and", greedy(8)).tokens);
  EXPECT_THROW(fails.generate("One day", greedy(8), [](std::string_view) { throw Gone(); }), Gone);
  EXPECT_EQ(fails.generate("One day", greedy(2)).tokens.size(), 2u) << "it can be used again";
}

TEST(PublicSession, ACallbackMayNotCompute) {
  Session session = small().session(), other = small().session();
  const auto compute = [&](std::string_view) { (void)other.logits(story()); };
  EXPECT_EQ(error_of([&] { session.generate("One day", greedy(3), compute); }).kind(), Kind::bad_input);
}

TEST(PublicSession, LogitsAndScoresAgree) {
  const std::vector<int32_t> ids = story();
  Session session = small().session();
  const int64_t v = small().vocabulary_size();
  const std::vector<float> all = session.logits(ids, 0);
  ASSERT_EQ(std::ssize(all), std::ssize(ids) * v);
  EXPECT_EQ(session.logits(ids), std::vector<float>(all.end() - v, all.end())) << "to the bit, from the cache";
  const std::vector<float> last_two = session.logits(ids, std::ssize(ids) - 2);
  EXPECT_EQ(last_two, std::vector<float>(all.end() - 2 * v, all.end()));
  const std::vector<double> scores = small().session().score(ids);
  ASSERT_EQ(scores.size(), ids.size() - 1);
  for (size_t t = 1; t < ids.size(); ++t) {
    const auto row = all.begin() + static_cast<int64_t>(t - 1) * v;
    EXPECT_NEAR(scores[t - 1], log_softmax({row, row + v})[static_cast<size_t>(ids[t])], 1e-9);
  }
  const std::vector<double> tail = session.score(ids, std::ssize(ids) - 3);
  EXPECT_EQ(tail, std::vector<double>(scores.end() - 3, scores.end()));
  EXPECT_EQ(error_of([&] { (void)session.logits({}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([&] { (void)session.score(ids, 0); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([&] { (void)session.logits(std::vector<int32_t>{-1}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([&] { (void)session.logits(std::vector<int32_t>(257, 1)); }).kind(), Kind::bad_input);
}

TEST(PublicSession, HiddenStates) {
  const std::vector<int32_t> ids = story();
  Session session = small().session();
  const int64_t d = small().width(), t = std::ssize(ids);
  const std::vector<float> last = session.hidden_states(ids);
  ASSERT_EQ(std::ssize(last), t * d);
  const std::vector<float> before_norm = session.hidden_states(ids, small().layers() - 1);
  ASSERT_EQ(std::ssize(before_norm), t * d);
  EXPECT_NE(before_norm, last);
  EXPECT_NE(session.hidden_states(ids, 0), before_norm);
  // A token sees none that come after it.
  const std::vector<float> shorter = session.hidden_states(std::span(ids).first(4));
  EXPECT_EQ(shorter, std::vector<float>(last.begin(), last.begin() + 4 * d));
  EXPECT_EQ(session.embedding(ids, Pooling::last), std::vector<float>(last.end() - d, last.end()));
  const std::vector<float> mean = session.embedding(ids);
  ASSERT_EQ(std::ssize(mean), d);
  double first = 0;
  for (int64_t i = 0; i < t; ++i) first += static_cast<double>(last[static_cast<size_t>(i * d)]);
  EXPECT_NEAR(mean[0], first / static_cast<double>(t), 1e-5);
  EXPECT_EQ(error_of([&] { (void)session.hidden_states(ids, small().layers()); }).kind(), Kind::bad_input);
}

TEST(PublicSession, RoutingIsHandedToWhomItConcerns) {
  const Model model = Model::load(test::fixture("mixtral"), {.threads = 1});
  Session a = model.session(), b = model.session();
  int64_t calls = 0, tokens = 0;
  a.on_routing([&](const Routing& routing) {
    ++calls;
    if (routing.layer == 0) tokens += routing.tokens;
    ASSERT_EQ(std::ssize(routing.chosen), routing.tokens * routing.experts_per_token);
    ASSERT_EQ(std::ssize(routing.logits), routing.tokens * routing.experts);
    for (int64_t t = 0; t < routing.tokens; ++t) {
      const float* const logits = routing.logits.data() + t * routing.experts;
      const int32_t best = routing.chosen[static_cast<size_t>(t * routing.experts_per_token)];
      EXPECT_EQ(best, std::max_element(logits, logits + routing.experts) - logits);
      float sum = 0;
      for (int64_t k = 0; k < routing.experts_per_token; ++k)
        sum += routing.weights[static_cast<size_t>(t * routing.experts_per_token + k)];
      EXPECT_NEAR(sum, 1, 1e-5) << "Mixtral renormalises";
    }
  });
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5}, others = {6, 7, 8};
  a.start(ids, greedy(3)), b.start(others, greedy(3));
  while (!a.finished() || !b.finished()) step({&a, &b});
  EXPECT_EQ(tokens, 5 + 2);
  EXPECT_EQ(calls, 3 * model.layers());
  struct Enough {};
  a.on_routing([](const Routing&) { throw Enough(); });
  EXPECT_THROW((void)a.logits(others), Enough);
  a.start(ids, greedy(3)), b.start(others, greedy(3));
  while (!a.finished() || !b.finished()) step({&a, &b});
  EXPECT_EQ(a.finish(), Finish::failed);
  EXPECT_EQ(b.finish(), Finish::max_tokens);
  a.on_routing(nullptr);
  EXPECT_EQ(a.logits(others).size(), static_cast<size_t>(model.vocabulary_size()));
}

TEST(PublicSession, ForksShareMemoryAndNothingElse) {
  Session session = small().session();
  const std::vector<int32_t> ids = story();
  (void)session.logits(ids);
  const int64_t held = session.own_bytes();
  EXPECT_GT(held, 0);
  Session fork = session.fork();
  EXPECT_EQ(fork.tokens(), session.tokens());
  EXPECT_EQ(session.own_bytes(), 0);
  std::vector<int32_t> other = ids;
  other.back() = ids.front();
  const std::vector<float> expected = small().session().logits(ids);
  const std::vector<float> of_other = small().session().logits(other);
  EXPECT_EQ(fork.logits(other), of_other);
  EXPECT_EQ(session.logits(ids), expected);
  EXPECT_GT(fork.own_bytes(), 0);
  EXPECT_LE(fork.own_bytes(), held);
}

TEST(PublicSession, TheCachesOfAllSessionsKeepToTheirLimit) {
  const Model model = Model::load(test::fixture("mixtral"), {.threads = 1, .cache_bytes = 1 << 16});
  const std::vector<int32_t> ids(40, 3);
  std::vector<Session> sessions;
  const auto fill = [&] {
    for (int i = 0; i < 1000; ++i) {
      sessions.push_back(model.session());
      (void)sessions.back().logits(ids);
    }
  };
  EXPECT_EQ(error_of(fill).kind(), Kind::out_of_memory);
  EXPECT_GT(sessions.size(), 1u);
  sessions.pop_back(), sessions.pop_back();
  EXPECT_EQ(model.session().logits(ids), sessions.front().logits(ids)) << "what was freed is used again";
}

}  // namespace
}  // namespace coterie
