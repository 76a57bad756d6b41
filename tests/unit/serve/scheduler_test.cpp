#include "serve/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

namespace coterie::serve {
namespace {

using runtime::test::kEnd;
using runtime::test::tiny_model;
using test::Answer;
using test::greedy;
using test::Served;

std::vector<TokenId> ids_of(int64_t length, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(length));
  for (TokenId& id : ids) id = static_cast<TokenId>(97 + rng.below(26));
  return ids;
}

/// A request that goes on until it is cancelled, and holds the engine meanwhile.
Request endless() { return greedy(ids_of(5, 1), -1); }

TEST(SchedulerEvents, ComeInOrderAndTellWhatHappened) {
  runtime::EngineOptions engine;
  engine.step_tokens = 32;
  Served served(tiny_model(), {}, engine);
  Request request = greedy(ids_of(100, 1), 12);
  request.logprobs = 2;
  const Answer answer = served.run(request);
  ASSERT_TRUE(answer.queued);
  EXPECT_EQ(answer.queued->ahead, 0);
  ASSERT_GE(answer.progress.size(), 4U);
  EXPECT_EQ(answer.progress[0].done, 0) << "when it begins";
  EXPECT_EQ(answer.progress[0].seconds, 0);
  EXPECT_EQ(answer.progress[1].done, 32);
  EXPECT_EQ(answer.progress.back().done, 100);
  EXPECT_EQ(answer.progress.back().total, 100);
  ASSERT_TRUE(answer.finished);
  EXPECT_EQ(answer.finished->reason, FinishReason::max_tokens);
  EXPECT_EQ(answer.finished->usage.completion_tokens, 12);
  EXPECT_EQ(answer.finished->usage.prompt_tokens, 100);
  EXPECT_GT(answer.finished->timings.first_token_seconds, 0);
  EXPECT_GT(answer.finished->timings.decode_seconds, 0);
  ASSERT_EQ(answer.ids.size(), 12U);
  for (size_t i = 0; i < answer.ids.size(); ++i) {
    ASSERT_EQ(answer.top[i].size(), 2U);
    EXPECT_EQ(answer.top[i][0].id, answer.ids[i]) << "greedy takes the best";
    EXPECT_EQ(answer.top[i][0].logprob, answer.logprobs[i]);
  }
  const Snapshot end = served.settled();
  EXPECT_EQ(end.counters.submitted, 1U);
  EXPECT_EQ(end.counters.finished_length, 1U);
  EXPECT_EQ(end.counters.generated_tokens, 12U);
  EXPECT_EQ(end.histograms.first_token_seconds.count, 1U);
  EXPECT_EQ(end.histograms.between_tokens_seconds.count, 11U);
  EXPECT_EQ(end.histograms.step_tokens.sum, 100.0 + 11);
  // A Mixtral of two layers: each step tells of both, and each token takes two experts in each.
  EXPECT_EQ(end.histograms.distinct_experts.count, end.counters.steps * 2);
  uint64_t assignments = 0;
  for (const auto& layer : end.counters.expert_tokens)
    for (const uint64_t tokens : layer) assignments += tokens;
  EXPECT_EQ(assignments, 111U * 2 * 2);
}

TEST(SchedulerEvents, PromptsAreScored) {
  Served served(tiny_model());
  Request request = greedy(ids_of(60, 4), 0);
  request.prompt_logprobs = 1;
  const Answer scored = served.run(request);
  ASSERT_TRUE(scored.scored);
  ASSERT_EQ(scored.scored->tokens.size(), 59U);
  EXPECT_EQ(scored.scored->tokens[0].id, request.prompt[1]);
  EXPECT_TRUE(scored.ids.empty());
  // What a prompt of 30 tokens would be answered by is what the 60's thirtieth is most probable to be followed by.
  Request half = greedy({request.prompt.begin(), request.prompt.begin() + 30}, 1);
  half.logprobs = 1;
  const Answer next = served.run(half);
  EXPECT_EQ(next.ids[0], scored.scored->top[29][0].id);
  EXPECT_EQ(next.logprobs[0], scored.scored->top[29][0].logprob);
}

TEST(SchedulerEvents, StopStringsAndEndTokensEnd) {
  Served served(tiny_model());
  Request request = greedy(ids_of(10, 1), 40);
  const Answer whole = served.run(request);
  ASSERT_GT(whole.text.size(), 6U);
  const std::string stop = whole.text.substr(4, 3);
  request.stop = {"never to be seen", stop};
  const Answer stopped = served.run(request);
  EXPECT_EQ(stopped.finished->reason, FinishReason::stop_string);
  EXPECT_EQ(stopped.finished->stop_index, 1);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
  request.stop.clear();
  request.ignore_end = false;
  request.sampler.logit_bias = {{kEnd, 1e6F}};
  const Answer ended = served.run(request);
  EXPECT_EQ(ended.finished->reason, FinishReason::end_token);
  EXPECT_EQ(ended.ids, std::vector<TokenId>{kEnd});
  EXPECT_EQ(ended.text, "");
}

TEST(SchedulerCancel, EndsWhatRunsAndWhatWaits) {
  SchedulerOptions options;
  options.parallel = 1;
  Served served(tiny_model(true, 100000), options);
  const auto running = served.submit(endless());
  running.second->wait_for_tokens(3);
  const auto waiting = served.submit(greedy(ids_of(5, 2), 5));
  EXPECT_EQ(served.scheduler->snapshot().waiting, 1);
  EXPECT_EQ(served.scheduler->snapshot().running, 1);
  served.scheduler->cancel(waiting.first);
  EXPECT_EQ(waiting.second->wait().finished->reason, FinishReason::cancelled);
  served.scheduler->cancel(running.first);
  const Answer answer = running.second->wait();
  EXPECT_EQ(answer.finished->reason, FinishReason::cancelled);
  EXPECT_GE(answer.finished->usage.completion_tokens, 3);
  served.scheduler->cancel(running.first);
  served.scheduler->cancel(12345);
  EXPECT_EQ(served.settled().counters.cancelled, 2U);
}

TEST(SchedulerCancel, TheEndOfTheSchedulerCancelsAll) {
  auto served = std::make_unique<Served>(tiny_model(true, 100000));
  std::vector<std::shared_ptr<test::Collector>> all;
  for (int i = 0; i < 3; ++i) all.push_back(served->submit(endless()).second);
  all[0]->wait_for_tokens(1);
  served->scheduler.reset();
  for (const auto& each : all) EXPECT_EQ(each->now().finished->reason, FinishReason::cancelled);
}

TEST(SchedulerPause, LeavesTheBatchAndComesBack) {
  Served served(tiny_model());
  const Request request = greedy(ids_of(10, 1), 60);
  const Answer alone = served.run(request);
  const auto paused = served.submit(request);
  paused.second->wait_for_tokens(2);
  served.scheduler->pause(paused.first);
  // Another's whole answer passes; after its last step the paused one gets nothing any more.
  served.run(greedy(ids_of(10, 2), 5));
  const size_t had = paused.second->now().ids.size();
  if (!paused.second->now().ended()) {
    EXPECT_EQ(served.scheduler->snapshot().paused, 1);
    served.run(greedy(ids_of(10, 3), 5));
    EXPECT_EQ(paused.second->now().ids.size(), had);
  }
  served.scheduler->resume(paused.first);
  EXPECT_EQ(paused.second->wait().ids, alone.ids);
}

TEST(SchedulerLimits, RefuseWhatCannotBe) {
  SchedulerOptions options;
  options.cache_memory = 400 << 10;
  Served served(tiny_model(true, 4096), options);
  auto listener = std::make_shared<test::Collector>();
  const auto refuse = [&](base::ErrorKind kind, std::initializer_list<std::string_view> words, Request request) {
    expect_error(kind, words, [&] { served.scheduler->submit(std::move(request), listener); });
  };
  using base::ErrorKind;
  refuse(ErrorKind::bad_input, {"prompt", "empty"}, greedy({}, 5));
  refuse(ErrorKind::bad_input, {"vocabulary"}, greedy({5, 999}, 5));
  refuse(ErrorKind::bad_input, {"max_tokens"}, greedy({5}, -2));
  refuse(ErrorKind::bad_input, {"context", "5000"}, greedy(ids_of(5000, 1), 5));
  refuse(ErrorKind::out_of_memory, {"1000 tokens and 2000 of an answer", "serve.cache_memory"},
         greedy(ids_of(1000, 1), 2000));
  Request wrong = greedy({5}, 5);
  wrong.sampler.top_p = 2;
  refuse(ErrorKind::bad_input, {"top_p"}, wrong);
  wrong = greedy({5}, 5);
  wrong.stop = {""};
  refuse(ErrorKind::bad_input, {"stop"}, wrong);
  EXPECT_FALSE(listener->now().queued) << "nothing was queued";
  EXPECT_EQ(served.scheduler->snapshot().counters.refused_bad, 7U);
  // One without a limit of its own ends where the cache does.
  const Answer answer = served.run(greedy(ids_of(10, 1), -1));
  EXPECT_EQ(answer.finished->reason, FinishReason::context_full);
  EXPECT_LE(served.settled().memory.used(), options.cache_memory);
}

TEST(SchedulerLimits, TheQueueHasAnEnd) {
  SchedulerOptions options;
  options.parallel = 1;
  options.max_queue = 2;
  Served served(tiny_model(true, 100000), options);
  const auto running = served.submit(endless());
  running.second->wait_for_tokens(1);
  std::vector<std::shared_ptr<test::Collector>> waiting;
  for (uint64_t i = 0; i < 2; ++i) waiting.push_back(served.submit(greedy(ids_of(5, i), 2)).second);
  EXPECT_EQ(waiting[1]->now().queued->ahead, 1);
  try {
    served.submit(greedy(ids_of(5, 9), 2));
    FAIL() << "a third one waits";
  } catch (const Refused& refused) {
    EXPECT_EQ(refused.reason(), Refused::Reason::queue_full);
    EXPECT_GE(refused.retry_after_seconds(), 1);
  }
  EXPECT_EQ(served.scheduler->snapshot().counters.refused_queue, 1U);
  served.scheduler->drain();
  EXPECT_THROW(served.submit(greedy(ids_of(5, 9), 2)), Refused);
  served.scheduler->cancel(running.first);
  for (const auto& each : waiting) EXPECT_EQ(each->wait().ids.size(), 2U) << "what was taken is answered";
  EXPECT_EQ(waiting[1]->now().queued->ahead, 0) << "its place was told when it changed";
  EXPECT_TRUE(served.scheduler->idle());
}

TEST(SchedulerLimits, WhoWouldWaitTooLongIsRefused) {
  SchedulerOptions options;
  options.parallel = 1;
  options.max_wait_seconds = 1e-6;
  runtime::EngineOptions engine;
  engine.step_tokens = 16;
  Served served(tiny_model(true, 100000), options, engine);
  served.run(greedy(ids_of(40, 1), 2));
  EXPECT_GT(served.settled().prompt_tokens_per_second, 0);
  const auto running = served.submit(greedy(ids_of(2000, 2), -1));
  try {
    for (int i = 0; i < 100; ++i) served.submit(greedy(ids_of(2000, 3), 2));
    FAIL() << "nobody was refused";
  } catch (const Refused& refused) {
    EXPECT_EQ(refused.reason(), Refused::Reason::wait_too_long);
    EXPECT_GT(refused.retry_after_seconds(), 0);
  }
  served.scheduler->cancel(running.first);
}

/// Writes its name down when its prompt has begun.
class Order final : public Listener {
 public:
  Order(std::string name, std::mutex& mutex, std::string& order)
      : name_(std::move(name)), mutex_(mutex), order_(order) {}
  void on_event(RequestId, Event&& event) noexcept override {
    std::lock_guard lock(mutex_);
    if (std::holds_alternative<TokenChosen>(event)) order_ += name_;
  }

 private:
  std::string name_;
  std::mutex& mutex_;
  std::string& order_;
};

TEST(SchedulerOrder, PriorityGoesFirstAndClientsTakeTurns) {
  SchedulerOptions options;
  options.parallel = 1;
  options.ageing_seconds = 1000;
  Served served(tiny_model(true, 100000), options);
  std::mutex mutex;
  std::string order;
  const auto running = served.submit(endless());
  running.second->wait_for_tokens(1);
  std::vector<Submission> all;
  // Flood 1 to 3, then another client, then one of the flood's that is urgent.
  for (const std::string name : {"1", "2", "3", "o", "u"}) {
    Request request = greedy(ids_of(20, 5), 1);
    request.client = name == "o" ? "other" : "flood";
    request.priority = name == "u" ? 5 : 0;
    all.push_back({std::move(request), std::make_shared<Order>(name, mutex, order)});
  }
  served.scheduler->submit(std::move(all));
  served.scheduler->cancel(running.first);
  served.settled();
  EXPECT_EQ(order, "uo123");
}

/// Lets through what is in `allowed`, in turn, and forces what follows `trigger`.
class Script final : public TokenConstraint {
 public:
  explicit Script(std::vector<std::vector<TokenId>> allowed, std::vector<TokenId> first = {})
      : allowed_(std::move(allowed)), first_(std::move(first)) {}
  bool mask(std::span<uint32_t> bits) override {
    if (at_ >= allowed_.size()) throw std::runtime_error("asked beyond the end");
    std::fill(bits.begin(), bits.end(), 0U);
    for (const TokenId id : allowed_[at_]) bits[static_cast<size_t>(id) / 32] |= 1U << (id % 32);
    return !allowed_[at_].empty() || fails;
  }
  void accept(TokenId id) override {
    accepted.push_back(id);
    ++at_;
  }
  std::vector<TokenId> forced() override {
    if (!force_first) return {};
    if (accepted.empty()) return first_;
    std::vector<TokenId> run;
    for (size_t i = at_; i < allowed_.size() && allowed_[i].size() == 1; ++i) run.push_back(allowed_[i][0]);
    return run;
  }
  bool finished() override { return at_ == allowed_.size(); }
  bool force_first = true, fails = false;
  std::vector<TokenId> accepted;

 private:
  std::vector<std::vector<TokenId>> allowed_;
  std::vector<TokenId> first_;
  size_t at_ = 0;
};

TEST(SchedulerConstraints, KeepToWhatIsAllowedForcedOrNot) {
  Served served(tiny_model());
  Request request = greedy(ids_of(20, 1), 40);
  request.logprobs = 1;
  const std::vector<std::vector<TokenId>> script = {{65}, {97, 98, 99}, {66}, {67}, {68}, {}, {100, 101}, {69}};
  std::vector<Answer> answers;
  for (const bool force : {true, false}) {
    auto constraint = std::make_shared<Script>(script, std::vector<TokenId>{65});
    constraint->force_first = force;
    request.constraint = constraint;
    answers.push_back(served.run(request));
    ASSERT_TRUE(answers.back().finished) << answers.back().failed->message;
    EXPECT_EQ(answers.back().finished->reason, FinishReason::end_token);
    EXPECT_EQ(answers.back().ids, constraint->accepted);
    ASSERT_EQ(answers.back().ids.size(), script.size());
    for (size_t i = 0; i < script.size(); ++i)
      EXPECT_TRUE(script[i].empty() ||
                  std::find(script[i].begin(), script[i].end(), answers.back().ids[i]) != script[i].end())
          << i;
  }
  EXPECT_EQ(answers[0].ids, answers[1].ids) << "forced tokens go in as one piece: the text is the same";
  EXPECT_EQ(answers[0].logprobs, answers[1].logprobs);
  EXPECT_EQ(answers[0].text, answers[1].text);
}

TEST(SchedulerConstraints, FailClosed) {
  Served served(tiny_model());
  Request request = greedy(ids_of(20, 1), 40);
  auto constraint = std::make_shared<Script>(std::vector<std::vector<TokenId>>{{65}, {}});
  constraint->fails = true;  // the second mask lets nothing through
  request.constraint = constraint;
  const Answer answer = served.run(request);
  ASSERT_TRUE(answer.failed);
  EXPECT_NE(answer.failed->message.find("no token"), std::string::npos) << answer.failed->message;
  EXPECT_EQ(served.settled().counters.failed, 1U);
  // And the server goes on.
  EXPECT_EQ(served.run(greedy(ids_of(20, 1), 3)).ids.size(), 3U);
}

TEST(SchedulerModels, OnesWhoseAnswersDependOnTheirCompanyAreRefused) {
  families::OpenOptions open;
  open.router_capacity = true;
  open.router_limit = layers::RouterSpec::Capacity{.factor = 1.0};
  expect_error(base::ErrorKind::unsupported, {"router", "expert capacity"},
               [&] { Served served(families::open_model(runtime::test::fixture("mixtral"), open)); });
}

TEST(SchedulerModels, ExpertsThatAreNotThereAreNotPromised) {
  Request request = greedy({5, 6}, 2);
  request.routed_experts = true;
  Served dense(families::open_model(runtime::test::fixture("llama")));
  expect_error(base::ErrorKind::unsupported, {"routed_experts", "chooses no experts"}, [&] { dense.run(request); });
  SchedulerOptions options;
  options.keep_routes = false;
  Served without(tiny_model(), options);
  expect_error(base::ErrorKind::unsupported, {"routed_experts", "not kept"}, [&] { without.run(request); });
}

TEST(SchedulerModels, MemoryThatHoldsNothingIsRefused) {
  SchedulerOptions options;
  options.cache_memory = 1000;
  expect_error(base::ErrorKind::out_of_memory, {"serve.cache_memory", "256 tokens"},
               [&] { Served served(tiny_model(), options); });
}

}  // namespace
}  // namespace coterie::serve
