// Texts that are generated under a constraint, by a model that knows nothing.
#include "text/constraint.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "runtime/generation.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using base::Json;
using text::Constraint;

struct ConstrainedGeneration : testing::Test {
  static void SetUpTestSuite() {
    EngineOptions options;
    options.threads = 2;
    options.precision = ops::Precision::f32;
    engine = new Engine(test::tiny_model(true, 1024), options);
  }
  static void TearDownTestSuite() { delete engine; }

  struct Made {
    std::string text;
    Finish finish;
    bool fits;
    int64_t tokens, steps;
  };
  static Made made(GenerationOptions options) {
    Generation generation(*engine, engine->tokenizer().encode("JSON: "), std::move(options));
    Generation* const one = &generation;
    int64_t steps = 0;
    for (; !generation.finished(); ++steps) step(*engine, {&one, 1});
    if (generation.error()) std::rethrow_exception(generation.error());
    return {generation.text(), generation.finish(), generation.fits_constraint(),
            generation.statistics().generated_tokens, steps};
  }
  static GenerationOptions under(Constraint constraint, uint64_t seed = 1, double temperature = 1) {
    GenerationOptions options;
    options.sampler.temperature = temperature;
    options.sampler.seed = seed;
    options.max_tokens = 600;
    options.constraint = std::move(constraint);
    return options;
  }

  static Engine* engine;
};
Engine* ConstrainedGeneration::engine = nullptr;

TEST_F(ConstrainedGeneration, JsonFitsItsSchemaWhateverTheSeed) {
  const Constraint schema = Constraint::json_schema(
      engine->tokenizer(),
      R"({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 50},
          "words": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2}},
          "required": ["n", "words"], "additionalProperties": false})",
      "schema");
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const Made one = made(under(schema, seed, seed == 0 ? 0 : 1));
    ASSERT_EQ(one.finish, Finish::end_token) << one.text;
    EXPECT_TRUE(one.fits);
    const Json json = Json::parse(one.text, nullptr, false);
    ASSERT_TRUE(json.is_object()) << one.text;
    EXPECT_TRUE(json.at("n").is_number_integer() && json["n"] >= 0 && json["n"] <= 50) << one.text;
    EXPECT_TRUE(json.at("words").is_array() && json["words"].size() <= 2) << one.text;
  }
  GenerationOptions cut = under(schema);
  cut.max_tokens = 5;
  const Made short_one = made(std::move(cut));
  EXPECT_EQ(short_one.finish, Finish::max_tokens);
  EXPECT_FALSE(short_one.fits);
}

TEST_F(ConstrainedGeneration, WhatMustComeIsReadInOnePiece) {
  const std::string expected = R"({"name":"somebody whose name is long","age":7})";
  const Made one = made(
      under(Constraint::regex(engine->tokenizer(), R"(\{"name":"somebody whose name is long","age":7\})", "regex")));
  EXPECT_EQ(one.text, expected);
  EXPECT_EQ(one.finish, Finish::end_token) << "nothing can follow";
  EXPECT_EQ(one.tokens, std::ssize(expected));
  EXPECT_EQ(one.steps, 1) << "the prompt alone is computed";
  // Where there is a choice it is computed, and what follows is put after it.
  const Made choice = made(under(Constraint::regex(engine->tokenizer(), "(yes, it is so|no, not at all)", "regex")));
  EXPECT_TRUE(choice.text == "yes, it is so" || choice.text == "no, not at all") << choice.text;
  EXPECT_EQ(choice.steps, 1);
  const Made two = made(under(Constraint::regex(engine->tokenizer(), "(yes|no), (so|not) it is", "regex")));
  EXPECT_EQ(two.steps, 2) << two.text;
}

TEST_F(ConstrainedGeneration, WithEverythingAllowedTheTextIsTheSame) {
  // A model of random weights writes bytes that are no text; they are taken out of both.
  GenerationOptions free;
  free.sampler.temperature = 0;
  free.max_tokens = 60;
  for (TokenId id = 128; id < engine->spec().vocabulary; ++id)
    free.sampler.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  GenerationOptions constrained = free;
  constrained.constraint = Constraint::regex(engine->tokenizer(), "(?s:.*)", "regex");
  for (const double temperature : {0.0, 1.0}) {
    free.sampler.temperature = constrained.sampler.temperature = temperature;
    const Made one = made(free), other = made(constrained);
    EXPECT_EQ(one.text, other.text);
    EXPECT_EQ(one.tokens, 60);
  }
}

TEST_F(ConstrainedGeneration, RefusesWhatContradictsIt) {
  GenerationOptions options = under(Constraint::regex(engine->tokenizer(), "[ab]", "regex"));
  options.ignore_end = true;
  expect_error(base::ErrorKind::bad_input, {"ignore_end"}, [&] { made(std::move(options)); });
  GenerationOptions biased = under(Constraint::regex(engine->tokenizer(), "[ab]", "regex"));
  for (const TokenId id : {'a', 'b'})
    biased.sampler.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  expect_error(base::ErrorKind::unsupported, {"excluded by logit_bias"}, [&] { made(std::move(biased)); });
}

TEST(Sampler, DrawsAmongWhatIsAllowed) {
  SamplerOptions options;
  options.seed = 3;
  Sampler sampler(options, 40);
  std::vector<float> logits(40, 0.0f);
  logits[0] = 50;
  std::vector<uint32_t> allowed = {1u << 5 | 1u << 31, 1u << 2};
  std::vector<int> counts(40);
  for (size_t i = 0; i < 300; ++i)
    ++counts[static_cast<size_t>(sampler.sample(logits, std::vector<TokenId>(i), allowed))];
  EXPECT_EQ(counts[5] + counts[31] + counts[34], 300);
  for (const size_t id : {5, 31, 34}) EXPECT_GT(counts[id], 50);
  // Whether what alone is allowed is drawn changes nothing of what is drawn after it.
  Sampler one(options, 40), other(options, 40);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(other.sample(logits, {}, std::vector<uint32_t>{0, 1u << 2}), 34);
    EXPECT_EQ(one.sample(logits, {}, allowed), other.sample(logits, {}, allowed));
  }
}

}  // namespace
}  // namespace coterie::runtime
