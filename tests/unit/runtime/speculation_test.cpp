#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/clock.h"
#include "base/rng.h"
#include "families/shapes.h"
#include "runtime/generation.h"
#include "runtime/inspection.h"
#include "runtime/speculation/lookup_drafter.h"
#include "runtime/speculation/model_drafter.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

// Speculation changes no bit: ids, logits and routes are those of one token a step, for every family that keeps
// something between steps, whatever is drafted.
namespace coterie::runtime {
namespace {

constexpr int64_t kPrompt = 19, kAnswer = 45;

/// Drafts from chance, or what it was told will come, each token of which is wrong as often as asked.
class ToldDrafter final : public Drafter {
 public:
  ToldDrafter(std::vector<TokenId> text, double wrong, int64_t vocabulary)
      : text_(std::move(text)), wrong_(wrong), vocabulary_(vocabulary) {}
  Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler&) override {
    Draft draft;
    for (size_t at = tokens.size(); std::ssize(draft.tokens) < most; ++at) {
      const bool right = at < text_.size() && rng_.uniform_double() >= wrong_;
      draft.tokens.push_back(right ? text_[at] : static_cast<TokenId>(rng_.below(static_cast<uint32_t>(vocabulary_))));
    }
    return draft;
  }
  bool is_free() const override { return true; }

 private:
  std::vector<TokenId> text_;
  double wrong_;
  int64_t vocabulary_;
  base::Rng rng_{7};
};

/// Logits by the position of the token they follow, and routes by layer and position; what is computed again, as after
/// a draft that was wrong, takes the place of what was.
class Recorder final : public layers::Observer {
 public:
  int64_t last = 0;  // position of the token that is sure, before a step
  std::map<int64_t, std::vector<float>> rows;
  std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> routes;

  void routed(const layers::Routed& router) override {
    const layers::SequenceRows& s = router.sequences.front();
    const auto most = std::ssize(router.chosen) / router.plan.tokens;
    for (int64_t r = 0; r < s.rows; ++r) {
      const auto chosen = router.chosen.subspan(static_cast<size_t>(r * most), static_cast<size_t>(most));
      routes[{router.layer, s.first_position + r}] = {chosen.begin(), chosen.end()};
    }
  }
  void logits(tensor::ConstMatrix logits) override {
    for (int64_t r = 0; r < logits.rows; ++r) rows[last + r] = {logits.row(r), logits.row(r) + logits.cols};
  }
};

struct Result {
  std::vector<TokenId> ids;
  Recorder seen;
  std::vector<TokenId> held;  // that the cache was computed from
  int64_t steps = 0;
};

EngineOptions options_of(int64_t interval = 1024) {
  EngineOptions options;
  options.threads = 1;  // models of a few kilobytes
  options.precision = ops::Precision::f32;
  options.snapshot_interval = interval;
  options.drafted = 8;
  return options;
}

std::vector<TokenId> prompt_of(int64_t vocabulary, uint64_t seed = 1) {
  base::Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(kPrompt));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(static_cast<uint32_t>(vocabulary)));
  return ids;
}

Result generate(Engine& engine, const SamplerOptions& sampler, Speculator* speculator) {
  GenerationOptions options;
  options.sampler = sampler;
  options.max_tokens = kAnswer;
  options.ignore_end = true;
  options.speculator = speculator;
  const std::vector<TokenId> prompt = prompt_of(engine.spec().vocabulary);
  Generation generation(engine, prompt, options);
  Generation* const one = &generation;
  Result result;
  while (!generation.finished()) {
    result.seen.last = kPrompt + std::ssize(generation.generated()) - 1;
    step(engine, {&one, 1}, &result.seen);
    ++result.steps;
  }
  EXPECT_FALSE(generation.error());
  EXPECT_EQ(generation.tokens().cache.length(), std::ssize(generation.tokens().ids));
  result.ids.assign(generation.generated().begin(), generation.generated().end());
  result.held = generation.tokens().ids;
  return result;
}

std::map<std::string, SamplerOptions> samplers() {
  std::map<std::string, SamplerOptions> all;
  all["greedy"].temperature = 0;
  SamplerOptions& rules = all["rules"];
  rules.seed = 3, rules.temperature = 0.9, rules.top_k = 40, rules.top_p = 0.95, rules.min_p = 0.02;
  rules.repeat_penalty = 1.2, rules.frequency_penalty = 0.1;
  rules.dry_multiplier = 0.5, rules.dry_sequence_breakers = {};
  rules.xtc_probability = 0.4, rules.xtc_threshold = 0.02;
  SamplerOptions& mirostat = all["mirostat"];
  mirostat.mirostat = 2, mirostat.seed = 4;
  return all;
}

void expect_equal(const Result& found, const Result& plain, const std::string& what) {
  EXPECT_EQ(found.ids, plain.ids) << what;
  EXPECT_EQ(found.held, plain.held) << what;
  for (const auto& [position, row] : plain.seen.rows) {
    const auto other = found.seen.rows.find(position);
    ASSERT_NE(other, found.seen.rows.end()) << what << ", position " << position;
    ASSERT_EQ(other->second, row) << what << ", position " << position;
  }
  for (const auto& [place, chosen] : plain.seen.routes) {
    const auto other = found.seen.routes.find(place);
    ASSERT_NE(other, found.seen.routes.end()) << what;
    ASSERT_EQ(other->second, chosen) << what << ", layer " << place.first << ", position " << place.second;
  }
}

class SpeculationLaw : public testing::TestWithParam<const char*> {};

TEST_P(SpeculationLaw, ChangesNoBit) {
  Engine engine(families::open_model(test::fixture(GetParam())), options_of(16));
  Engine small(families::open_model(test::fixture(GetParam())), options_of());
  const int64_t vocabulary = engine.spec().vocabulary;
  for (const auto& [name, sampler] : samplers()) {
    const Result plain = generate(engine, sampler, nullptr);
    ASSERT_EQ(std::ssize(plain.ids), kAnswer);
    std::vector<TokenId> text = prompt_of(vocabulary);
    text.insert(text.end(), plain.ids.begin(), plain.ids.end());
    const auto by = [&](std::unique_ptr<Drafter> drafter, int64_t length, const std::string& what) {
      StepSeconds costs;
      Speculator speculator(std::move(drafter), 8, costs);
      speculator.always(length);
      const Result found = generate(engine, sampler, &speculator);
      expect_equal(found, plain, name + ", " + what + fmt::format(" of {}", length));
      return std::make_pair(found.steps, speculator.statistics());
    };
    const auto chance = by(std::make_unique<ToldDrafter>(std::vector<TokenId>(), 1, vocabulary), 3, "chance");
    EXPECT_GT(chance.second.drafted, 100);
    EXPECT_LT(chance.second.acceptance(), 0.1);
    for (const int64_t length : {1, 4, 8}) {
      const auto half = by(std::make_unique<ToldDrafter>(text, 0.3, vocabulary), length, "half right");
      EXPECT_GT(half.second.acceptance(), 0.1);
      EXPECT_LT(half.first, plain.steps - 8) << "tokens of a draft save steps";
    }
    const auto right = by(std::make_unique<ToldDrafter>(text, 0, vocabulary), 8, "right");
    EXPECT_EQ(right.second.acceptance(), 1);
    EXPECT_LE(right.first, 1 + kAnswer / 4);
    by(std::make_unique<LookupDrafter>(), 4, "looked up");
    const auto twin = by(std::make_unique<ModelDrafter>(small, vocabulary), 5, "twin's");
    // Which of an indexer's equal scores are chosen depends on the length of a sequence's first piece, and the twin's
    // is another.
    if (std::string_view(GetParam()) != "deepseek-v32") {
      EXPECT_EQ(twin.second.acceptance(), 1) << "it draws by the same numbers";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SpeculationLaw,
                         testing::Values("mamba", "mamba2", "jamba", "zamba", "zamba2", "granitemoehybrid",
                                         "qwen3-next", "qwen3_5-moe", "kimi-linear", "bailing-hybrid", "lfm2-moe",
                                         "nemotron-h", "mixtral", "deepseek-v3", "deepseek-v32", "gpt-oss", "gemma3",
                                         "llama4"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SpeculationOfSeveral, NeighboursDoNotMatter) {
  Engine engine(test::tiny_model(), options_of());
  const auto of = [&](size_t i) {
    GenerationOptions options;
    options.sampler.seed = i, options.sampler.top_k = 20;
    options.max_tokens = 20 + static_cast<int64_t>(5 * i);
    options.ignore_end = true;
    return options;
  };
  std::vector<std::vector<TokenId>> alone;
  for (size_t i = 0; i < 4; ++i) {
    Generation generation(engine, prompt_of(256, i), of(i));
    run(engine, generation);
    alone.emplace_back(generation.generated().begin(), generation.generated().end());
  }
  StepSeconds costs;
  std::vector<std::unique_ptr<Speculator>> speculators;
  std::vector<std::unique_ptr<Generation>> owned;
  std::vector<Generation*> all;
  for (size_t i = 0; i < 4; ++i) {
    std::vector<TokenId> text = prompt_of(256, i);
    text.insert(text.end(), alone[i].begin(), alone[i].end());
    GenerationOptions options = of(i);
    if (i > 0) {  // one without
      speculators.push_back(std::make_unique<Speculator>(std::make_unique<ToldDrafter>(text, 0.3, 259), 6, costs));
      speculators.back()->always(static_cast<int64_t>(2 * i));
      options.speculator = speculators.back().get();
    }
    owned.push_back(std::make_unique<Generation>(engine, prompt_of(256, i), std::move(options)));
    all.push_back(owned.back().get());
  }
  while (std::any_of(all.begin(), all.end(), [](const Generation* each) { return !each->finished(); }))
    step(engine, all);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_EQ(std::vector<TokenId>(all[i]->generated().begin(), all[i]->generated().end()), alone[i]) << i;
  for (const auto& speculator : speculators) EXPECT_GT(speculator->statistics().accepted, 5);
}

TEST(SpeculationOfSeveral, EndsWhereTheTextEnds) {
  Engine engine(test::tiny_model(true, 64), options_of());
  const auto made = [&](GenerationOptions options, double wrong, const std::vector<TokenId>& text) {
    StepSeconds costs;
    Speculator speculator(std::make_unique<ToldDrafter>(text, wrong, 259), 8, costs);
    speculator.always(7);
    options.speculator = text.empty() ? nullptr : &speculator;
    Generation generation(engine, prompt_of(256), std::move(options));
    run(engine, generation);
    EXPECT_EQ(generation.tokens().cache.length(), std::ssize(generation.tokens().ids));
    return std::make_tuple(std::vector<TokenId>(generation.generated().begin(), generation.generated().end()),
                           generation.text(), generation.finish(), generation.tokens().ids.size());
  };
  const auto check = [&](const GenerationOptions& options) {
    const auto plain = made(options, 0, {});
    std::vector<TokenId> text = prompt_of(256);
    text.insert(text.end(), std::get<0>(plain).begin(), std::get<0>(plain).end());
    text.insert(text.end(), 20, 65);
    for (const double wrong : {0.0, 0.2}) EXPECT_EQ(made(options, wrong, text), plain);
    return std::get<Finish>(plain);
  };
  GenerationOptions options;
  options.sampler.seed = 2, options.sampler.top_k = 60;
  options.max_tokens = 11;
  EXPECT_EQ(check(options), Finish::max_tokens);
  options.max_tokens = -1;
  options.sampler.logit_bias = {{test::kEnd, -100.0f}};
  EXPECT_EQ(check(options), Finish::context_full);
  options.sampler.logit_bias = {{test::kEnd, 5.0f}};
  EXPECT_EQ(check(options), Finish::end_token);
  options.sampler.logit_bias = {{test::kEnd, -100.0f}, {'q', 4.0f}};
  options.stop = {"q"};
  EXPECT_EQ(check(options), Finish::stop_string);
  options.stop = {};
  options.sampler.logit_bias = {};
  options.constraint = text::Constraint::regex(engine.tokenizer(), "(the answer is [0-9]{3}, )+end", "regex");
  check(options);
}

TEST(SpeculationRules, RefusesWhatItWouldChange) {
  StepSeconds costs;
  const auto refused = [&](families::Model model, const std::string& word) {
    Engine engine(std::move(model), options_of());
    Speculator speculator(std::make_unique<LookupDrafter>(), 4, costs);
    GenerationOptions options;
    options.speculator = &speculator;
    expect_error(base::ErrorKind::unsupported, {"speculate", word},
                 [&] { Generation(engine, prompt_of(64), options); });
  };
  families::OpenOptions options;
  options.router_capacity = true, options.router_limit.emplace();
  options.router_limit->factor = 1.0f;
  refused(families::open_model(test::fixture("mixtral"), options), "capacity");
  families::OpenOptions dynamic;
  dynamic.rope.scaling = layers::RopeSpec::Scaling::dynamic;
  dynamic.rope.factor = 2;
  refused(families::open_model(test::fixture("llama"), dynamic), "dynamic");
}

TEST(LookupDrafter, FindsTheLongestMatchAndOfEqualOnesTheLast) {
  LookupDrafter drafter;
  Sampler sampler({}, 100);
  const auto drafted = [&](std::vector<TokenId> text, int64_t most = 3) {
    return drafter.propose(text, most, sampler).tokens;
  };
  EXPECT_EQ(drafted({1, 2, 3, 4, 5, 1, 2}), (std::vector<TokenId>{3, 4, 5}));
  EXPECT_EQ(drafted({1, 2, 7, 8, 9, 1, 2, 3, 9, 9, 1, 2}), (std::vector<TokenId>{3, 9, 9})) << "the last";
  EXPECT_EQ(drafted({5, 1, 2, 7, 8, 9, 1, 2, 3, 9, 5, 1, 2}), (std::vector<TokenId>{7, 8, 9})) << "the longest";
  EXPECT_EQ(drafted({4, 4, 4}), (std::vector<TokenId>{4, 4, 4})) << "into itself";
  EXPECT_EQ(drafted({8, 1, 2, 1, 2}, 5), (std::vector<TokenId>{1, 2, 1, 2, 1}));
  EXPECT_TRUE(drafted({1, 2, 3, 4, 2}).empty()) << "one token is no match";
  EXPECT_TRUE(drafted({}).empty());
  EXPECT_TRUE(drafted({1, 1}).empty());
  std::vector<TokenId> twice(40);
  for (size_t i = 0; i < twice.size(); ++i) twice[i] = static_cast<TokenId>(i % 20);
  EXPECT_EQ(drafter.propose(twice, 2, sampler).trust, 3);
  EXPECT_EQ(drafter.propose(std::vector<TokenId>{1, 2, 3, 1, 2}, 2, sampler).trust, 0);
}

TEST(Speculator, SwitchesItselfOffWhileItDoesNotPay) {
  Sampler sampler({}, 100);
  const auto drafted = [&](double row, double acceptance, int steps) {
    StepSeconds costs;
    for (int64_t rows = 1; rows <= 9; ++rows)
      for (int i = 0; i < 5; ++i) costs.measured(rows, 1 + row * static_cast<double>(rows - 1));
    Speculator speculator(std::make_unique<ToldDrafter>(std::vector<TokenId>(), 1, 100), 8, costs);
    base::Rng rng(5);
    int64_t rows = 0;
    for (int i = 0; i < steps; ++i) {
      const auto draft = std::ssize(speculator.draft(std::vector<TokenId>{1, 2}, 8, sampler, 1, 1));
      if (draft == 0) continue;
      rows += draft;
      int64_t accepted = 0;
      while (accepted < draft && rng.uniform_double() < acceptance) ++accepted;
      speculator.verified(draft, accepted);
    }
    return static_cast<double>(rows) / steps;
  };
  EXPECT_LT(drafted(1, 0.7, 2000), 0.1) << "a row costs what a step costs";
  EXPECT_LT(drafted(0.3, 0.05, 2000), 0.1) << "hardly a token is accepted";
  EXPECT_GT(drafted(0.05, 0.95, 2000), 6) << "rows are cheap, and accepted";
  const double some = drafted(0.3, 0.7, 2000);
  EXPECT_GT(some, 0.5);
  EXPECT_LT(some, 4);
}

/// Takes so long for a draft, and longer for the first after a while without.
class SlowDrafter final : public Drafter {
 public:
  SlowDrafter(double draft, double reading) : draft_(draft), reading_(reading) {}
  Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler&) override {
    const base::Stopwatch clock;
    const bool behind = std::ssize(tokens) > read_ + 1;
    read_ = std::ssize(tokens);
    while (clock.seconds() < draft_ * static_cast<double>(most) + (behind ? reading_ : 0)) continue;
    return {std::vector<TokenId>(static_cast<size_t>(most), 1), 0};
  }
  bool is_free() const override { return false; }

 private:
  double draft_, reading_;
  int64_t read_ = 0;
};

// Steps of 1 ms, of which `steps` are simulated; each draft is accepted, or none.
SpeculationStatistics statistics_of(double draft, double reading, bool accepted, int64_t steps, int64_t answers = 1) {
  StepSeconds costs;
  for (int64_t rows = 1; rows <= 5; ++rows)
    for (int i = 0; i < 3; ++i) costs.measured(rows, 1e-3 * (1 + 0.1 * static_cast<double>(rows - 1)));
  Speculator speculator(std::make_unique<SlowDrafter>(draft, reading), 4, costs);
  const Sampler sampler({}, 10);
  std::vector<TokenId> tokens(20, 1);
  for (int64_t step = 0; step < steps; ++step) {
    if (step > 0 && step % (steps / answers) == 0) speculator.begin_answer();
    const auto drafted = std::ssize(speculator.draft(tokens, 4, sampler, 1, 1));
    if (drafted > 0) speculator.verified(drafted, accepted ? drafted : 0);
    tokens.push_back(1);
  }
  return speculator.statistics();
}

TEST(Speculator, WhatReadingATextCostsIsNotWhatADraftCosts) {
  // All 200 on a quiet machine; a draft that another process interrupts looks dear for a while.
  EXPECT_GT(statistics_of(1e-5, 0.05, true, 200).steps, 20);
}

TEST(Speculator, DraftsThatCostTimeAreNotTriedAgainBeforeWhatTheyLostIsOnePercent) {
  EXPECT_LT(statistics_of(2e-3, 0.02, false, 1500).steps, 12);
  // Drafts that cost a tenth of a step, but 30 steps to come back to after 60: no try is within one percent.
  EXPECT_LT(statistics_of(1e-4, 0.03, false, 500).steps, 12);
}

TEST(Speculator, DraftsThatCostTimeAreTriedOnceInEachAnswer) {
  const int64_t in_one = statistics_of(2e-3, 0.002, false, 800).steps;
  EXPECT_GE(statistics_of(2e-3, 0.002, false, 800, 4).steps, in_one + 3);
}

TEST(RowCosts, LieOnLinesBetweenWhatWasMeasured) {
  const RowCosts costs({1, 1.2, 1.6, 1.7});
  EXPECT_DOUBLE_EQ(costs.of(0.4), 1);
  EXPECT_DOUBLE_EQ(costs.of(1), 1);
  EXPECT_DOUBLE_EQ(costs.of(2), 1.2);
  EXPECT_DOUBLE_EQ(costs.of(2.5), 1.4);
  EXPECT_DOUBLE_EQ(costs.of(4), 1.7);
  EXPECT_NEAR(costs.of(6), 1.9, 1e-12);
}

TEST(RowCosts, AreMeasuredInAModelOfTheSameWidthsAndShareOfOutputEmbeddings) {
  const auto of = [](const char* name, tensor::DType format) {
    const models::ModelSpec spec = families::shape(name);
    return dense_shape(spec, models::account(spec), format, tensor::DType::q8_0);
  };
  const DenseShape small = of("smollm2-135m", tensor::DType::q4_1);
  EXPECT_EQ(small.width, 576);
  EXPECT_EQ(small.heads, 9);
  EXPECT_EQ(small.kv_heads, 3);
  EXPECT_EQ(small.hidden, 1536);
  EXPECT_EQ(small.layers, 30) << "less than 0.2 GB: all of it";
  EXPECT_EQ(small.vocabulary, 49152);
  EXPECT_TRUE(small.tied);
  EXPECT_EQ(small.output_format, tensor::DType::q8_0);
  // 8 experts of 768 a token, and routers, rounded up; a layer of them in 4.5 bits is 32 MB.
  const DenseShape mixture = of("qwen3-30b-a3b", tensor::DType::q4_k);
  EXPECT_EQ(mixture.heads, 32);
  EXPECT_EQ(mixture.head_dim, 128);
  EXPECT_EQ(mixture.hidden, 6400);
  EXPECT_EQ(mixture.layers, 7);
  EXPECT_NEAR(static_cast<double>(mixture.vocabulary), 151936.0 * 7 / 48, 64);
  // Layers of other kinds: as many parameters in attention as they have in their mixers.
  const models::ModelSpec spec = families::shape("qwen3.5-35b-a3b");
  const models::Account account = models::account(spec);
  const DenseShape hybrid = dense_shape(spec, account, tensor::DType::q4_k, {});
  const auto mixers = static_cast<double>(account.active[static_cast<size_t>(models::Place::mixer)]);
  const auto each = static_cast<double>(hybrid.width * hybrid.head_dim * (2 * hybrid.heads + 2 * hybrid.kv_heads));
  EXPECT_NEAR(each / (mixers / static_cast<double>(std::ssize(spec.blocks))), 1, 0.1);
}

// 10 of every weight, 4 of it in experts of which a token takes one of four, and states of 1 a token.
TEST(RowCosts, MakeTheCostOfAStepOfAMixture) {
  using models::Place;
  Inspection model;
  const auto mixer = static_cast<size_t>(Place::mixer), experts = static_cast<size_t>(Place::experts);
  model.bytes_held[mixer] = model.bytes_touched[mixer] = 600;
  model.bytes_held[experts] = 1600, model.bytes_touched[experts] = 400;
  model.account.held[experts] = 1600, model.account.active[experts] = 400;
  model.account.state_bytes = 50;
  const RowCosts free({1, 1, 1}), dear({1, 2, 3});
  // Two rows meet 1 - (3/4)² of the experts; a state is read and written for each.
  const double met = 1600 * 7.0 / 16, plain = 600 + 400 + 100;
  EXPECT_NEAR(model.step_cost(1, free), (600 + met + 200) / plain, 1e-12);
  // Where each row costs as much as the first there is nothing to gain.
  EXPECT_NEAR(model.step_cost(1, dear), (2 * 600 + met * (2 * 0.25 / (7.0 / 16)) + 200) / plain, 1e-12);
  EXPECT_NEAR(model.step_cost(1, dear), 2, 1e-12);
  EXPECT_NEAR(model.speculation_gain(1, 0.5, free), 1.5 / model.step_cost(1, free), 1e-12);
}

TEST(StepSeconds, AreMeasuredOrInBetween) {
  StepSeconds costs;
  EXPECT_EQ(costs.expected(3), 0);
  costs.measured(1, 1.0);
  EXPECT_GT(costs.expected(3), 1.0);
  EXPECT_LT(costs.expected(3), 1.5) << "a guess that lets it be tried";
  costs.measured(5, 3.0);
  EXPECT_DOUBLE_EQ(costs.expected(3), 2.0);
  EXPECT_DOUBLE_EQ(costs.expected(7), 4.0);
  costs.measured(5, 2.0);
  EXPECT_DOUBLE_EQ(costs.expected(5), 2.5);
  costs.measured(5, 100.0);
  EXPECT_LT(costs.expected(5), 13.0) << "one that was upset counts little";
}

}  // namespace
}  // namespace coterie::runtime
