#include "families/ensemble/ensemble_decoder.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "laws/models/bench.h"
#include "ops/log_sum_exp.h"

// Models of an ensemble give the mixture that the gate says, in the bits that each of them gives alone.
namespace coterie::laws {
namespace {

using families::Gate;

constexpr int64_t kTokens = 21;

families::Model model_of(const std::string& family, uint64_t seed) {
  tiny::Model made = tiny::make(family, seed);
  families::Model model;
  model.source = std::move(made.source), model.decoder = std::move(made.decoder);
  model.name = family;
  return model;
}

/// A gate over as many models, read by the last of them, with rows that choose by the token.
Gate gate_over(const std::vector<families::Model>& models, Gate::Kind kind, int64_t top_k) {
  Gate gate;
  gate.kind = kind, gate.top_k = top_k;
  gate.models.resize(models.size());
  if (!gate.reads()) return gate;
  gate.reader = std::ssize(models) - 1;
  base::Rng rng(3, 5);
  for (size_t i = 0; i < models.size(); ++i) {
    std::vector<float>& row = gate.rows.emplace_back(static_cast<size_t>(models.back().decoder->spec().width));
    for (float& v : row) v = rng.normal();
    gate.bias.push_back(rng.normal());
  }
  return gate;
}

families::EnsembleDecoder gated(const std::vector<std::pair<std::string, uint64_t>>& of, Gate::Kind kind,
                                int64_t top_k) {
  std::vector<families::Model> all;
  for (const auto& [family, seed] : of) all.push_back(model_of(family, seed));
  const Gate gate = gate_over(all, kind, top_k);
  return {std::move(all), gate};
}

const Case kCase = {"", "scalar"};

std::vector<float> alone(const models::Decoder& decoder, std::span<const int32_t> ids) {
  return Runner(kCase, decoder).whole(ids);
}

class Copies : public testing::TestWithParam<std::string> {};

TEST_P(Copies, OfOneModelAreTheModel) {
  const families::Model model = model_of(GetParam(), 1);
  const std::vector<int32_t> ids = some_ids(kTokens, model.decoder->spec().vocabulary, 1);
  const std::vector<float> expected = alone(*model.decoder, ids);
  for (const auto& [kind, top_k] :
       {std::pair(Gate::Kind::uniform, 3), {Gate::Kind::token, 2}, {Gate::Kind::token, 1}}) {
    const auto mixture = gated({{GetParam(), 1}, {GetParam(), 1}, {GetParam(), 1}}, kind, top_k);
    expect_close(alone(mixture, ids), expected, 1e-5, std::string(name(kind)));
  }
}

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const auto& [name, config] : tiny::configs()) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Families, Copies, testing::ValuesIn(families()), [](const auto& of) { return of.param; });

TEST(Gated, AllWeightToOneModelIsThatModelToTheBit) {
  const families::Model one = model_of("llama", 2);
  const std::vector<int32_t> ids = some_ids(kTokens, one.decoder->spec().vocabulary, 2);
  const std::vector<float> expected = alone(*one.decoder, ids);
  std::vector<families::Model> all;
  all.push_back(model_of("llama", 1)), all.push_back(model_of("llama", 2)), all.push_back(model_of("llama", 3));
  Gate gate = gate_over(all, Gate::Kind::token, 3);
  gate.bias[1] = 1e6f;
  families::EnsembleDecoder mixture(std::move(all), gate);
  expect_same_bits(alone(mixture, ids), expected, "a bias that nothing outweighs");
  mixture.fix({1, 0, 0});
  EXPECT_NE(alone(mixture, ids), expected);
  mixture.fix({0, 1, 0});
  expect_same_bits(alone(mixture, ids), expected, "fixed weights");
}

std::vector<double> probabilities(std::span<const float> logits, int64_t vocabulary) {
  std::vector<double> p(logits.begin(), logits.end());
  for (auto row = p.begin(); row != p.end(); row += vocabulary) {
    const double top = *std::max_element(row, row + vocabulary);
    double sum = 0;
    for (auto v = row; v != row + vocabulary; ++v) sum += * v = std::exp(*v - top);
    for (auto v = row; v != row + vocabulary; ++v) *v /= sum;
  }
  return p;
}

// A weight that is 1 in f32 beside one that is hardly anything, whoever is added up first.
TEST(Gated, AModelThatIsAllButSureIsHeard) {
  for (const int64_t reader : {0, 1}) {
    std::vector<families::Model> all;
    all.push_back(model_of("llama", 1)), all.push_back(model_of("llama", 2));
    const std::vector<int32_t> ids = some_ids(kTokens, all[0].decoder->spec().vocabulary, 2);
    const int64_t vocabulary = all[0].decoder->spec().vocabulary;
    const std::vector<std::vector<double>> each = {probabilities(alone(*all[0].decoder, ids), vocabulary),
                                                   probabilities(alone(*all[1].decoder, ids), vocabulary)};
    Gate gate = gate_over(all, Gate::Kind::token, 2);
    gate.reader = reader;
    families::EnsembleDecoder mixture(std::move(all), gate);
    for (const size_t sure : {0, 1}) {
      std::vector<double> weights = {1e-9, 1e-9};
      weights[sure] = 1 - 1e-9;
      mixture.fix(weights);
      const std::vector<double> found = probabilities(alone(mixture, ids), vocabulary);
      for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], each[sure][i], 1e-6) << reader << sure;
    }
  }
}

// Jacobs et al.'s sum, computed here from the models alone and from states that the reader shows.
TEST(Gated, IsTheSumOfProbabilitiesByTheGatesWeights) {
  std::vector<families::Model> all;
  all.push_back(model_of("llama", 1)), all.push_back(model_of("olmoe", 2)), all.push_back(model_of("qwen3", 3));
  int64_t vocabulary = 1 << 30;
  for (const families::Model& model : all) vocabulary = std::min(vocabulary, model.decoder->spec().vocabulary);
  const std::vector<int32_t> ids = some_ids(kTokens, vocabulary, 4);
  std::vector<std::vector<float>> logits;
  for (const families::Model& model : all) logits.push_back(alone(*model.decoder, ids));
  std::vector<int64_t> widths;
  for (const families::Model& model : all) widths.push_back(model.decoder->spec().vocabulary);

  class LastState : public layers::Observer {
   public:
    explicit LastState(int64_t layer) : layer_(layer) {}
    void block(int64_t layer, tensor::ConstMatrix x) override {
      for (int64_t r = 0; layer == layer_ && r < x.rows; ++r) states.emplace_back(x.row(r), x.row(r) + x.cols);
    }
    std::vector<std::vector<float>> states;

   private:
    int64_t layer_;
  } observer(std::ssize(all.back().decoder->spec().blocks) - 1);
  Runner runner(kCase, *all.back().decoder);
  ops::Context context{runner.pool, runner.kernels, runner.arena, ops::Precision::f32};
  layers::ResidentState state = runner.state();
  state.reserve(kTokens);
  const models::SequenceStep step{.ids = ids, .state = &state, .random_key = 1};
  all.back().decoder->forward(context, {&step, 1}, {.observer = &observer});

  const Gate gate = gate_over(all, Gate::Kind::token, 2);
  families::EnsembleDecoder mixture(std::move(all), gate);
  double heard = 0;
  mixture.listen([&](tensor::ConstMatrix weights) {
    for (int64_t r = 0; r < weights.rows; ++r)
      for (int64_t i = 0; i < weights.cols; ++i) heard += static_cast<double>(weights.row(r)[i]);
  });
  const std::vector<float> mixed = alone(mixture, ids);
  EXPECT_NEAR(heard, kTokens, 1e-5);
  ASSERT_EQ(std::ssize(mixed), kTokens * vocabulary);
  std::vector<int64_t> most(3);
  for (size_t t = 0; t < kTokens; ++t) {
    double squares = 0;
    for (const float v : observer.states[t]) squares += static_cast<double>(v) * static_cast<double>(v);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(observer.states[t].size()));
    std::vector<double> g(3);
    for (size_t i = 0; i < 3; ++i) {
      g[i] = static_cast<double>(gate.bias[i]);
      for (size_t d = 0; d < observer.states[t].size(); ++d)
        g[i] += static_cast<double>(gate.rows[i][d]) * scale * static_cast<double>(observer.states[t][d]);
    }
    const auto least = std::min_element(g.begin(), g.end()) - g.begin();
    ++most[static_cast<size_t>(std::max_element(g.begin(), g.end()) - g.begin())];
    double sum = 0;
    for (size_t i = 0; i < 3; ++i) g[i] = static_cast<int64_t>(i) == least ? 0 : std::exp(g[i]), sum += g[i];
    const float* out = mixed.data() + static_cast<int64_t>(t) * vocabulary;
    const double total = ops::log_sum_exp(out, vocabulary);
    for (int64_t v = 0; v < vocabulary; ++v) {
      double p = 0;
      for (size_t i = 0; i < 3; ++i) {
        const float* x = logits[i].data() + static_cast<int64_t>(t) * widths[i];
        p += g[i] / sum * std::exp(static_cast<double>(x[v]) - ops::log_sum_exp(x, vocabulary));
      }
      EXPECT_NEAR(std::exp(static_cast<double>(out[v]) - total), p, 1e-6);
    }
  }
  // The gate does choose, and not always alike.
  EXPECT_LT(*std::max_element(most.begin(), most.end()), kTokens);
}

// Families whose states are of all kinds, in one sequence's state.
TEST(Gated, HowASequenceIsFedChangesNoBit) {
  const auto mixture = gated({{"llama", 1}, {"jamba", 2}, {"deepseek_v2", 3}}, Gate::Kind::token, 2);
  const int64_t vocabulary = mixture.spec().vocabulary;
  const std::vector<int32_t> ids = some_ids(kTokens, vocabulary, 5), others = some_ids(9, vocabulary, 6);
  const std::vector<float> whole = alone(mixture, ids);
  Runner runner(kCase, mixture, 1);
  expect_same_bits(runner.pieces(ids, std::vector<int64_t>(kTokens, 1)), whole, "one by one");
  expect_same_bits(runner.pieces(ids, std::vector<int64_t>{7, 1, 13}), whole, "in pieces");
  expect_same_bits(Runner(kCase, mixture, 3).whole(ids), whole, "three threads");
  layers::ResidentState a = runner.state(), b = runner.state();
  layers::ResidentState* states[] = {&b, &a};
  const std::span<const int32_t> both[] = {others, ids};
  const std::vector<float> batch = runner.step(both, states);
  expect_same_bits(std::span(batch).subspan(static_cast<size_t>(9 * vocabulary)), whole, "beside another");
}

TEST(Gated, LogitsThatAreNotAskedForAreNotMade) {
  const auto mixture = gated({{"llama", 1}, {"llama", 2}}, Gate::Kind::token, 2);
  const std::vector<int32_t> ids = some_ids(kTokens, mixture.spec().vocabulary, 7);
  const std::vector<float> whole = alone(mixture, ids);
  Runner runner(kCase, mixture);
  ops::Context context{runner.pool, runner.kernels, runner.arena, ops::Precision::f32};
  layers::ResidentState a = runner.state(), b = runner.state();
  a.reserve(kTokens), b.reserve(kTokens);
  using Logits = models::SequenceStep::Logits;
  const models::SequenceStep steps[] = {{.ids = ids, .state = &a, .logits = Logits::none},
                                        {.ids = ids, .state = &b, .logits = Logits::last}};
  const tensor::Matrix logits = mixture.forward(context, steps, {});
  ASSERT_EQ(logits.rows, 1);
  expect_same_bits({logits.row(0), static_cast<size_t>(logits.cols)},
                   std::span(whole).last(static_cast<size_t>(logits.cols)), "the last row");
}

}  // namespace
}  // namespace coterie::laws
