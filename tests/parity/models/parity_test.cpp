#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "families/open.h"
#include "kernels/table.h"
#include "layers/resident_state.h"
#include "models/score.h"
#include "parity/fixture.h"
#include "threads/pool.h"

// Every checkpoint in tests/parity/data against what the reference computed for it, on every instruction set that this
// CPU has. Bounds: issue tracker, "How it is judged".
namespace coterie {
namespace {

using models::SequenceStep;

struct Case {
  parity::Fixture fixture;
  std::string isa;
};

std::vector<Case> cases(bool (*wanted)(const parity::Fixture&)) {
  std::vector<Case> result;
  for (const parity::Fixture& fixture : parity::fixtures())
    if (wanted(fixture))
      for (const kernels::Candidate& candidate : kernels::candidates())
        result.push_back({fixture, std::string(candidate.table->isa)});
  return result;
}

bool any(const parity::Fixture&) { return true; }
bool is_gguf(const parity::Fixture& fixture) { return fixture.model.extension() == ".gguf"; }
bool has_greedy(const parity::Fixture& fixture) {
  return checkpoint::open_safetensors(fixture.folder / "expected.safetensors")->find("greedy") != nullptr;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.fixture.name + "_" + info.param.isa;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '/'; }, '_');
  return name;
}

struct Outcome {
  std::vector<float> logits;  // [B, T, V]
  double loss = 0;
};

class Parity : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    for (const kernels::Candidate& candidate : kernels::candidates())
      if (candidate.table->isa == GetParam().isa && !candidate.usable) GTEST_SKIP() << candidate.reason;
    kernels = &kernels::by_name(GetParam().isa);
    expected = parity::read_expected(GetParam().fixture);
    model = families::open_model(GetParam().fixture.model);
  }

  layers::ResidentState state() const {
    const models::ModelSpec& spec = model.decoder->spec();
    return {models::cache_block_bytes(spec, tensor::DType::f32), tensor::DType::f32, models::state_floats(spec)};
  }

  /// All sequences in one batch, as the reference has them.
  Outcome run(ops::Precision precision) {
    ops::Context context{pool, *kernels, arena, precision};
    std::vector<layers::ResidentState> states;
    for (int64_t b = 0; b < expected.batch; ++b) states.push_back(state()), states.back().reserve(expected.tokens);
    std::vector<SequenceStep> steps;
    for (int64_t b = 0; b < expected.batch; ++b)
      steps.push_back(
          {.ids = sequence(b), .state = &states[static_cast<size_t>(b)], .logits = SequenceStep::Logits::all});
    models::LoadBalance balance;
    const tensor::Matrix logits = model.decoder->forward(context, steps, {.observer = &balance});
    models::CrossEntropy entropy;
    for (int64_t b = 0; b < expected.batch; ++b)
      entropy.add(logits.row_range(b * expected.tokens, (b + 1) * expected.tokens), sequence(b));
    Outcome result{{logits.data, logits.data + logits.rows * logits.cols}, entropy.mean()};
    if (const float coefficient = model.decoder->spec().router_aux_loss; coefficient != 0)
      result.loss += static_cast<double>(coefficient) * balance.loss();
    arena.reset();
    return result;
  }

  std::span<const int32_t> sequence(int64_t b) const {
    return {expected.ids.data() + b * expected.tokens, static_cast<size_t>(expected.tokens)};
  }

  const kernels::KernelTable* kernels = nullptr;
  parity::Expected expected;
  families::Model model;
  threads::Pool pool{2};
  tensor::Arena arena;
};

TEST_P(Parity, LogitsAndLoss) {
  const Outcome found = run(ops::Precision::f32);
  ASSERT_EQ(found.logits.size(), expected.logits.size());
  double worst = 0;
  for (size_t i = 0; i < found.logits.size(); ++i) {
    ASSERT_TRUE(std::isfinite(found.logits[i])) << "logit " << i;
    worst = std::max(worst, std::abs(static_cast<double>(found.logits[i]) - expected.logits[i]));
  }
  EXPECT_LE(worst, parity::slack_of(model.decoder->spec()) * 1e-4 * std::max(1.0, expected.logit_std));
  RecordProperty("max_logit_error", std::to_string(worst));
  if (!std::isnan(expected.loss)) {
    EXPECT_NEAR(found.loss, expected.loss, 1e-5 * std::abs(expected.loss));
  }
}

class Greedy : public Parity {};
TEST_P(Greedy, WithTheCache) {
  ops::Context context{pool, *kernels, arena, ops::Precision::f32};
  constexpr int64_t kPrompt = 8;
  for (int64_t b = 0; b < expected.batch; ++b) {
    layers::ResidentState cache = state();
    std::vector<int32_t> ids(sequence(b).begin(), sequence(b).begin() + kPrompt);
    std::vector<int32_t> found;
    for (int64_t i = 0; i < expected.greedy_tokens; ++i) {
      const auto length = static_cast<int64_t>(ids.size());
      // The reference decoded without a cache; where a cache is not the same thing, evaluate anew as it did.
      if (!model.decoder->cache_holds(cache.length(), length)) cache.truncate(0);
      const std::span<const int32_t> fresh = std::span(ids).subspan(static_cast<size_t>(cache.length()));
      cache.reserve(static_cast<int64_t>(fresh.size()));
      const SequenceStep step{.ids = fresh, .state = &cache};
      const tensor::Matrix logits = model.decoder->forward(context, {&step, 1});
      cache.advance(static_cast<int64_t>(fresh.size()));
      ids.push_back(static_cast<int32_t>(std::max_element(logits.data, logits.data + logits.cols) - logits.data));
      found.push_back(ids.back());
      arena.reset();
    }
    const auto first = expected.greedy.begin() + b * expected.greedy_tokens;
    EXPECT_EQ(found, std::vector<int32_t>(first, first + expected.greedy_tokens)) << "sequence " << b;
  }
}

// Block formats against int8 activations: close, but a near-tied expert may flip.
class Fast : public Parity {};
TEST_P(Fast, IsClose) {
  const Outcome found = run(ops::Precision::fast);
  std::vector<double> errors;  // of each token: |Δ| / |logits|
  for (int64_t t = 0; t < expected.batch * expected.tokens; ++t) {
    double difference = 0, size = 0;
    for (int64_t v = 0; v < expected.vocabulary; ++v) {
      const auto i = static_cast<size_t>(t * expected.vocabulary + v);
      difference += std::pow(static_cast<double>(found.logits[i]) - expected.logits[i], 2);
      size += std::pow(static_cast<double>(expected.logits[i]), 2);
    }
    errors.push_back(std::sqrt(difference / size));
  }
  std::sort(errors.begin(), errors.end());
  EXPECT_LE(errors[errors.size() / 2], 3e-2);
  EXPECT_LE(std::count_if(errors.begin(), errors.end(), [](double e) { return e > 0.1; }),
            static_cast<int64_t>(errors.size()) / 10);
  RecordProperty("median_error", std::to_string(errors[errors.size() / 2]));
}

// YaRN past its original length, as it runs by default: the fast kernels, a cache of f16, a prompt in pieces. Teacher-
// forced loss at 1, 1.5 and 4 times that length. Attention is causal, so the reference's loss at a shorter length is
// that of its first logits.
class Yarn : public Parity {};
TEST_P(Yarn, LossPastTheOriginalLength) {
  const models::ModelSpec& spec = model.decoder->spec();
  const int64_t original = models::rope_of(spec, spec.blocks[0])->original_context;
  ASSERT_GE(expected.tokens, 4 * original);
  ops::Context context{pool, *kernels, arena, ops::Precision::fast};
  layers::ResidentState cache(models::cache_block_bytes(spec, tensor::DType::f16), tensor::DType::f16);
  std::vector<float> logits;
  while (cache.length() < expected.tokens) {
    const int64_t count = std::min<int64_t>(37, expected.tokens - cache.length());
    cache.reserve(count);
    const SequenceStep step{.ids = sequence(0).subspan(static_cast<size_t>(cache.length()), static_cast<size_t>(count)),
                            .state = &cache,
                            .logits = SequenceStep::Logits::all};
    const tensor::Matrix rows = model.decoder->forward(context, {&step, 1});
    logits.insert(logits.end(), rows.data, rows.data + rows.rows * rows.cols);
    cache.advance(count), arena.reset();
  }
  for (const int64_t length : {original, original * 3 / 2, 4 * original}) {
    const auto ids = sequence(0).subspan(0, static_cast<size_t>(length));
    models::CrossEntropy found, reference;
    found.add({logits.data(), length, expected.vocabulary}, ids);
    reference.add({expected.logits.data(), length, expected.vocabulary}, ids);
    EXPECT_NEAR(found.mean(), reference.mean(), 0.005 * reference.mean()) << length << " tokens";
  }
}

bool is_long_yarn(const parity::Fixture& fixture) { return fixture.name.ends_with("/yarn-long"); }
INSTANTIATE_TEST_SUITE_P(Checkpoints, Yarn, testing::ValuesIn(cases(is_long_yarn)), name_of);
INSTANTIATE_TEST_SUITE_P(Checkpoints, Parity, testing::ValuesIn(cases(any)), name_of);
INSTANTIATE_TEST_SUITE_P(Checkpoints, Greedy, testing::ValuesIn(cases(has_greedy)), name_of);
INSTANTIATE_TEST_SUITE_P(Checkpoints, Fast, testing::ValuesIn(cases(is_gguf)), name_of);

}  // namespace
}  // namespace coterie
