#include "runtime/generation.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "base/rng.h"
#include "checkpoint/tensor_source.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using base::ErrorKind;

EngineOptions options_of(ops::Precision precision = ops::Precision::f32, int64_t step_tokens = 512) {
  EngineOptions options;
  options.threads = 2;
  options.precision = precision;
  options.step_tokens = step_tokens;
  return options;
}

GenerationOptions greedy(int64_t tokens) {
  GenerationOptions options;
  options.sampler.temperature = 0;
  options.max_tokens = tokens;
  options.ignore_end = true;
  return options;
}

std::vector<TokenId> generated(Engine& engine, std::span<const TokenId> prompt, GenerationOptions options) {
  Generation generation(engine, prompt, std::move(options));
  run(engine, generation);
  return {generation.generated().begin(), generation.generated().end()};
}

std::vector<TokenId> prompt_of(int64_t length, uint64_t seed = 1) {
  base::Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(length));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(256));
  return ids;
}

// [B, T] or [B, N] of i64.
std::vector<TokenId> row(const checkpoint::TensorInfo& tensor, int64_t b, int64_t count) {
  std::vector<TokenId> ids;
  const auto* values = reinterpret_cast<const int64_t*>(tensor.bytes.data()) + b * tensor.shape[1];
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<TokenId>(values[i]));
  return ids;
}

TEST(Generation, GreedyTokensAreTheReferences) {
  for (const char* name : {"mixtral", "llama", "qwen3-moe", "olmoe"}) {
    const auto expected = checkpoint::open_safetensors(test::fixture(name) + "/expected.safetensors");
    const auto& ids = *expected->find("input_ids");
    const auto& greedy_ids = *expected->find("greedy");
    for (const int64_t step_tokens : {512, 3}) {
      Engine engine(families::open_model(test::fixture(name)), options_of(ops::Precision::f32, step_tokens));
      for (int64_t b = 0; b < ids.shape[0]; ++b)
        EXPECT_EQ(generated(engine, row(ids, b, 8), greedy(greedy_ids.shape[1])),
                  row(greedy_ids, b, greedy_ids.shape[1]))
            << name << ", sequence " << b << ", steps of " << step_tokens;
    }
  }
}

TEST(Generation, SeveralSequencesMoveOnTogetherAsEachAlone) {
  const std::vector<std::vector<TokenId>> prompts = {prompt_of(5, 1), prompt_of(40, 2), prompt_of(1, 3),
                                                     prompt_of(17, 4)};
  Engine engine(test::tiny_model(), options_of(ops::Precision::fast, 16));
  std::vector<std::vector<TokenId>> alone;
  for (const auto& prompt : prompts) alone.push_back(generated(engine, prompt, greedy(20)));

  std::vector<std::unique_ptr<Generation>> owned;
  std::vector<Generation*> all;
  for (size_t i = 0; i < prompts.size(); ++i) {
    owned.push_back(std::make_unique<Generation>(engine, prompts[i], greedy(20)));
    all.push_back(owned.back().get());
  }
  const auto running = [&] { return std::any_of(all.begin(), all.end(), [](auto* g) { return !g->finished(); }); };
  int steps = 0;
  for (; running() && steps < 1000; ++steps) step(engine, all);
  EXPECT_LT(steps, 30) << "they share steps";
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(std::vector<TokenId>(all[i]->generated().begin(), all[i]->generated().end()), alone[i]) << i;
    EXPECT_EQ(all[i]->finish(), Finish::max_tokens);
  }
}

// Three sequences in one batch; at its second token the callback of one throws. The others must get their own rows of
// logits from then on, in every place that the failing one can have among them.
TEST(Generation, ACallbackThatThrowsEndsItsSequenceAndNoOther) {
  const std::vector<std::vector<TokenId>> prompts = {prompt_of(5, 1), prompt_of(20, 2), prompt_of(1, 3)};
  Engine engine(test::tiny_model(), options_of(ops::Precision::fast, 16));
  std::vector<std::vector<TokenId>> alone;
  for (const auto& prompt : prompts) alone.push_back(generated(engine, prompt, greedy(12)));
  for (size_t failing = 0; failing < prompts.size(); ++failing) {
    std::vector<std::unique_ptr<Generation>> owned;
    std::vector<Generation*> all;
    for (size_t i = 0; i < prompts.size(); ++i) {
      GenerationOptions options = greedy(12);
      int seen = 0;
      if (i == failing)
        options.on_token = [seen](TokenId) mutable {
          if (++seen == 2) throw std::runtime_error("the client has gone");
        };
      owned.push_back(std::make_unique<Generation>(engine, prompts[i], options));
      all.push_back(owned.back().get());
    }
    for (int steps = 0; steps < 40; ++steps) step(engine, all);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const std::vector<TokenId> tokens(all[i]->generated().begin(), all[i]->generated().end());
      if (i == failing) {
        EXPECT_EQ(all[i]->finish(), Finish::failed);
        EXPECT_EQ(tokens.size(), 2u);
        EXPECT_THROW(std::rethrow_exception(all[i]->error()), std::runtime_error);
      } else {
        EXPECT_EQ(all[i]->finish(), Finish::max_tokens);
        EXPECT_FALSE(all[i]->error());
        EXPECT_EQ(tokens, alone[i]) << "sequence " << i << " beside " << failing;
      }
    }
  }
}

TEST(Generation, RunThrowsWhatTheCallbackThrew) {
  Engine engine(test::tiny_model(), options_of());
  GenerationOptions options = greedy(5);
  options.on_token = [](TokenId) { throw std::runtime_error("no more"); };
  Generation generation(engine, prompt_of(3), options);
  EXPECT_THROW(run(engine, generation), std::runtime_error);
  EXPECT_EQ(generation.finish(), Finish::failed);
}

TEST(Generation, TheSeedMakesItReproducible) {
  Engine engine(test::tiny_model(), options_of());
  GenerationOptions options;
  options.sampler.seed = 9;
  options.max_tokens = 30, options.ignore_end = true;
  const auto first = generated(engine, prompt_of(4), options);
  EXPECT_EQ(generated(engine, prompt_of(4), options), first);
  options.sampler.seed = 10;
  EXPECT_NE(generated(engine, prompt_of(4), options), first);
}

TEST(Generation, ReusesTheCommonPrefix) {
  Engine engine(test::tiny_model(), options_of());
  const std::vector<TokenId> prompt = prompt_of(30);
  TokenCache tokens{engine.make_cache(), {}};
  Generation first(engine, std::move(tokens), prompt, greedy(5));
  run(engine, first, tokens);
  EXPECT_EQ(first.statistics().reused_tokens, 0);
  EXPECT_EQ(first.statistics().evaluated_tokens, 34) << "the fifth answer token was never needed";
  EXPECT_EQ(tokens.cache.length(), 34);
  std::vector<TokenId> changed = prompt;
  changed[20] ^= 1;
  Generation second(engine, std::move(tokens), changed, greedy(5));
  EXPECT_EQ(second.statistics().reused_tokens, 20);
  run(engine, second, tokens);
  EXPECT_EQ(std::vector<TokenId>(second.generated().begin(), second.generated().end()),
            generated(engine, changed, greedy(5)));
  expect_error(ErrorKind::bad_input, {"empty"}, [&] { Generation refused(engine, std::move(tokens), {}, greedy(1)); });
  EXPECT_EQ(tokens.cache.length(), 34) << "who is refused keeps what he has";
  Generation third(engine, std::move(tokens), changed, greedy(1));
  EXPECT_EQ(third.statistics().reused_tokens, 29) << "the last prompt token gives the logits";
}

TEST(Generation, StopsAtEndTokens) {
  Engine engine(test::tiny_model(), options_of());
  GenerationOptions options = greedy(10);
  options.ignore_end = false;
  options.sampler.logit_bias = {{test::kEnd, 1000.0f}};
  Generation generation(engine, prompt_of(3), options);
  run(engine, generation);
  EXPECT_EQ(generation.finish(), Finish::end_token);
  EXPECT_EQ(generation.text(), "");
  EXPECT_EQ(generation.statistics().generated_tokens, 1);
}

// The text of an unstopped run, then every stop string cut out of it must end the run before itself.
TEST(Generation, NeverShowsPartOfAStopString) {
  Engine engine(test::tiny_model(), options_of());
  GenerationOptions options = greedy(40);
  options.sampler.temperature = 1, options.sampler.seed = 3;
  for (TokenId id = 0; id < 259; ++id)
    if (id < 'a' || id > 'e') options.sampler.logit_bias.push_back({id, -1000.0f});
  Generation whole(engine, prompt_of(3), options);
  run(engine, whole);
  const std::string text = whole.text();
  ASSERT_EQ(text.size(), 40u);
  for (size_t begin = 3; begin < 37; begin += 7)
    for (size_t length = 1; length <= 3; ++length) {
      GenerationOptions stopped = options;
      stopped.stop = {text.substr(begin, length)};
      std::string streamed;
      stopped.on_text = [&](std::string_view piece) { streamed += piece; };
      Generation generation(engine, prompt_of(3), stopped);
      run(engine, generation);
      EXPECT_EQ(generation.finish(), Finish::stop_string);
      EXPECT_EQ(streamed, text.substr(0, text.find(stopped.stop[0])));
      EXPECT_EQ(generation.text(), streamed);
    }
}

TEST(Generation, EndsWhenTheContextIsFull) {
  Engine engine(test::tiny_model(true, 24), options_of());
  Generation generation(engine, prompt_of(20), greedy(-1));
  run(engine, generation);
  EXPECT_EQ(generation.finish(), Finish::context_full);
  EXPECT_EQ(generation.statistics().generated_tokens, 4);
}

TEST(Generation, TheFlagInterrupts) {
  Engine engine(test::tiny_model(), options_of());
  std::atomic<bool> flag{false};
  GenerationOptions options = greedy(100);
  options.interrupt = &flag;
  int tokens_seen = 0;
  options.on_token = [&](TokenId) { flag = ++tokens_seen == 5; };
  Generation generation(engine, prompt_of(3), options);
  run(engine, generation);
  EXPECT_EQ(generation.finish(), Finish::interrupted);
  EXPECT_EQ(generation.statistics().generated_tokens, 5);
}

TEST(Generation, RefusesWhatCannotBeContinued) {
  Engine engine(test::tiny_model(true, 32), options_of());
  const auto refused = [&](std::initializer_list<std::string_view> words, const std::vector<TokenId>& prompt,
                           const GenerationOptions& options) {
    expect_error(ErrorKind::bad_input, words, [&] { Generation generation(engine, prompt, options); });
  };
  refused({"prompt", "empty"}, {}, greedy(1));
  refused({"id 259 at position 1", "vocabulary of 259"}, {1, 259}, greedy(1));
  refused({"id -1 at position 0"}, {-1}, greedy(1));
  refused({"33 tokens", "context of 32"}, prompt_of(33), greedy(1));
  refused({"32 tokens", "context of 32"}, prompt_of(32), greedy(1));
  refused({"max_tokens"}, prompt_of(3), greedy(-2));
  GenerationOptions empty_stop = greedy(1);
  empty_stop.stop = {""};
  refused({"stop"}, prompt_of(3), empty_stop);
}

TEST(Generation, StopStringsNeedATokenizer) {
  Engine engine(test::tiny_model(false), options_of());
  GenerationOptions options = greedy(1);
  options.stop = {"x"};
  expect_error(ErrorKind::unsupported, {"tokenizer"}, [&] { Generation generation(engine, prompt_of(3), options); });
}

TEST(Engine, RefusesAContextTheModelWasNotMadeFor) {
  EngineOptions options = options_of();
  options.context = 257;
  expect_error(ErrorKind::bad_input, {"context", "257", "256"}, [&] { Engine engine(test::tiny_model(), options); });
}

TEST(Engine, RefusesACacheThatCannotFit) {
  EngineOptions options = options_of();
  options.context = int64_t{1} << 40;
  expect_error(ErrorKind::out_of_memory, {"KV cache of 1099511627776 positions", "TB"},
               [&] { Engine engine(test::tiny_model(true, int64_t{1} << 40), options); });
}

}  // namespace
}  // namespace coterie::runtime
