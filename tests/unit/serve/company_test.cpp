#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "checkpoint/random_source.h"
#include "families/random_model.h"
#include "runtime/generation.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

// The law of the server: a request's answer is its own, to the bit, whoever else is being answered.
namespace coterie::serve {
namespace {

using runtime::test::fixture;
using test::Answer;
using test::ids_of;
using test::Served;

/// Requests of all kinds: prompts that share beginnings, greedy and sampled, with and without logprobs and experts.
Request request_of(uint64_t number, bool experts) {
  base::Rng rng(number + 1000);
  Request request;
  request.prompt = ids_of(10 + static_cast<int64_t>(rng.below(4)) * 17, rng.below(3));  // one of three beginnings
  const std::vector<TokenId> own = ids_of(1 + static_cast<int64_t>(rng.below(40)), number);
  request.prompt.insert(request.prompt.end(), own.begin(), own.end());
  request.max_tokens = 3 + static_cast<int64_t>(rng.below(20));
  request.ignore_end = true;
  request.sampler.temperature = rng.below(3) == 0 ? 0 : 1;
  request.sampler.seed = number;
  if (rng.below(2) == 0) request.sampler.repeat_penalty = 1.2;
  request.logprobs = static_cast<int64_t>(rng.below(4)) - 1;
  if (rng.below(6) == 0) request.prompt_logprobs = 2;
  request.routed_experts = experts;
  request.client = std::string(1, static_cast<char>('a' + rng.below(3)));
  request.priority = static_cast<int64_t>(rng.below(2));
  if (rng.below(4) == 0) request.cache_salt = "salt";
  return request;
}

void expect_same(const std::vector<TokenLogprob>& a, const std::vector<TokenLogprob>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].id, b[i].id);
    EXPECT_EQ(a[i].logprob, b[i].logprob);
  }
}

/// `answer` is `alone`, or where it was cut off, a beginning of it.
void expect_same(const Answer& answer, const Answer& alone, bool may_be_cut) {
  ASSERT_TRUE(answer.finished) << (answer.failed ? answer.failed->message : "it never ended");
  EXPECT_EQ(answer.after_end, 0);
  if (!may_be_cut) {
    EXPECT_EQ(answer.ids, alone.ids);
    EXPECT_EQ(answer.text, alone.text);
    EXPECT_EQ(answer.finished->routed_experts.positions, alone.finished->routed_experts.positions);
  }
  ASSERT_LE(answer.ids.size(), alone.ids.size());
  for (size_t i = 0; i < answer.ids.size(); ++i) {
    ASSERT_EQ(answer.ids[i], alone.ids[i]) << "token " << i;
    EXPECT_EQ(answer.logprobs[i], alone.logprobs[i]) << "token " << i;
    expect_same(answer.top[i], alone.top[i]);
  }
  if (answer.scored) {
    expect_same(answer.scored->tokens, alone.scored->tokens);
    for (size_t i = 0; i < answer.scored->top.size(); ++i) expect_same(answer.scored->top[i], alone.scored->top[i]);
  }
  const std::vector<uint16_t>& experts = answer.finished->routed_experts.experts;
  ASSERT_LE(experts.size(), alone.finished->routed_experts.experts.size());
  EXPECT_TRUE(std::equal(experts.begin(), experts.end(), alone.finished->routed_experts.experts.begin()));
}

class Company : public testing::TestWithParam<const char*> {
 protected:
  families::Model model() const {
    const std::string name = GetParam();
    if (!name.ends_with("choice")) return families::open_model(fixture(name));
    // Experts that choose their tokens.
    models::ModelSpec spec = families::read_spec(checkpoint::resolve_model(fixture("mixtral")));
    for (models::BlockSpec& block : spec.blocks)
      std::get<layers::MoeSpec>(block.ffn).router.selection = layers::RouterSpec::Selection::expert_choice;
    families::RandomModel random = families::random_model(spec, tensor::DType::f32, "choice");
    families::Model model;
    model.source = checkpoint::random_source(std::move(random.tensors), std::move(random.metadata), 1, 1);
    model.decoder = families::bind_decoder(spec, *model.source);
    model.name = "choice";
    return model;
  }
  static bool is(std::string_view name) { return name == GetParam(); }
  static runtime::EngineOptions engine_options() {
    runtime::EngineOptions options;
    options.threads = 1;
    options.context = is("phi3/longrope-crossing") ? 128 : 256;
    return options;
  }
  static Request request(uint64_t number) {
    const std::string_view name = GetParam();
    const bool dense =
        name == "mamba2" || name == "zamba2" || name.find("phi3") != name.npos || name.find("llama") != name.npos;
    Request request = request_of(number, !dense);
    // Answers that grow past the original context of 12, where a sequence is evaluated anew.
    if (is("phi3/longrope-crossing") && number % 4 > 0) request.prompt.resize(4 + number % 9);
    return request;
  }
};

// Waves of requests join at random moments, pieces of prompts are as small as they can be, some are cancelled, some
// pause, and the cache is so small that what was kept is evicted.
TEST_P(Company, ChangesNoBitOfAnAnswer) {
  // Two threads that others keep waiting are slow; one model is enough for what they do besides steps.
  const bool threads = is("mixtral");
  const uint64_t count = threads ? 10 : 24;
  std::vector<Answer> alone;
  {
    SchedulerOptions options;
    options.prefix_cache = false;
    runtime::EngineOptions whole = engine_options();
    // Where prompts may be cut at fixed positions alone, those are what a step holds.
    if (is("expert-choice")) whole.step_tokens = 48;
    Served served(model(), options, whole);
    for (uint64_t i = 0; i < count; ++i) alone.push_back(served.run(request(i)));
  }
  SchedulerOptions options;
  options.stall_seconds = 1e-6;
  options.parallel = 6;
  options.max_queue = 100;
  {
    const models::ModelSpec spec = model().decoder->spec();
    for (options.cache_memory = 64 << 10;; options.cache_memory += 16 << 10) try {
        serve::engine_options(spec, engine_options(), options);
        break;
      } catch (const base::Error&) {
      }
    options.cache_memory *= 3;
  }
  runtime::EngineOptions small = engine_options();
  small.step_tokens = 48;
  small.threads = threads ? 2 : 1;
  small.snapshot_interval = 32;
  Served served(model(), options, small);
  base::Rng rng(7);
  std::vector<std::pair<RequestId, std::shared_ptr<test::Collector>>> requests;
  std::vector<char> cut(count);
  for (uint64_t i = 0; i < count; ++i) {
    requests.push_back(served.submit(request(i)));
    if (rng.below(3) == 0) std::this_thread::sleep_for(std::chrono::microseconds(rng.below(3000)));
    if (rng.below(4) == 0) {
      const size_t victim = rng.below(i + 1);
      cut[victim] = 1;
      served.scheduler->cancel(requests[victim].first);
    }
    const RequestId other = requests[rng.below(i + 1)].first;
    if (rng.below(3) == 0) {
      served.scheduler->pause(other);
      if (rng.below(2) == 0) std::this_thread::sleep_for(std::chrono::microseconds(rng.below(2000)));
      served.scheduler->resume(other);
    }
    EXPECT_LE(served.scheduler->snapshot().memory.used(), options.cache_memory);
  }
  for (uint64_t i = 0; i < count; ++i) {
    SCOPED_TRACE(i);
    expect_same(requests[i].second->wait(), alone[i], cut[i]);
  }
  // And once more, when the tree holds some of it.
  for (uint64_t i = 0; i < count; i += 5) {
    SCOPED_TRACE(i);
    expect_same(served.run(request(i)), alone[i], false);
  }
  Request twice;
  twice.prompt = ids_of(60, 99);
  twice.max_tokens = 2;
  served.run(twice);
  const Finished second = *served.run(twice).finished;
  if (is("expert-choice")) {
    EXPECT_EQ(second.usage.cached_tokens, 0);
    EXPECT_NE(second.cache_miss.find("tokens to come"), std::string::npos) << second.cache_miss;
  } else {
    EXPECT_EQ(second.usage.cached_tokens, 48);
  }
  const Snapshot end = served.settled();
  EXPECT_LE(end.memory.used(), options.cache_memory);
  EXPECT_EQ(end.memory.pages_running, 0) << "every page has been given back, or belongs to the tree";
}

// The scheduler's answers are those of the one-sequence loop that `coterie run` uses.
TEST_P(Company, GivesTheAnswersOfOneSequenceAlone) {
  Served served(model(), {}, engine_options());
  runtime::Engine engine(model(), engine_options());
  for (uint64_t i = 0; i < 6; ++i) {
    const Request request = Company::request(i);
    runtime::GenerationOptions options;
    options.sampler = request.sampler;
    options.max_tokens = request.max_tokens;
    options.ignore_end = true;
    runtime::Generation generation(engine, request.prompt, options);
    runtime::run(engine, generation);
    const Answer answer = served.run(request);
    EXPECT_EQ(answer.ids, std::vector<TokenId>(generation.generated().begin(), generation.generated().end()));
    ASSERT_TRUE(answer.finished);
    EXPECT_EQ(answer.finished->usage.completion_tokens, request.max_tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Company,
                         testing::Values("mixtral", "qwen3-moe", "deepseek-v2", "jamba", "zamba2", "mamba2", "phi3",
                                         "llama/rope-dynamic-long", "phi3/longrope-crossing", "expert-choice"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == '-' || c == '/'; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace coterie::serve
