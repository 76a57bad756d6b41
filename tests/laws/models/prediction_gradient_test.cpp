#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "families/prediction.h"
#include "laws/models/bench.h"
#include "laws/models/differences.h"
#include "models/blank_decoder.h"
#include "models/parameters.h"
#include "models/predicting_decoder.h"

// A model and its head for multi-token prediction, trained as one: gradients are finite differences of the sum of both
// losses, and of the head's alone where the model is frozen.
namespace coterie::laws {
namespace {

using models::Parameter;
using models::Parameters;

constexpr double kWeight = 0.3;

class PredictionGradientLaw : public testing::TestWithParam<std::string> {
 protected:
  void open(bool trains_model) {
    base = tiny::make(GetParam());
    const models::ModelSpec spec = base.decoder->spec();
    decoder = std::make_unique<models::PredictingDecoder>(
        std::move(base.decoder), models::blank_decoder(families::prediction_spec(spec)), kWeight, trains_model);
    const auto chosen = [&](const layers::ListedTensor& tensor) {
      return trains_model || models::is_of_prediction_head(tensor.path);
    };
    parameters = std::make_unique<Parameters>(*decoder, chosen);
    base::Rng rng(7);
    for (const Parameter& p : parameters->list()) {
      if (!models::is_of_prediction_head(p.path)) continue;
      const double scale = p.matrix ? 1.5 / std::sqrt(static_cast<double>(p.shape.back())) : 0.2;
      const double middle = p.place == layers::Place::norms ? 1 - spec.final_norm.weight_offset : 0;
      for (int64_t i = 0; i < p.count; ++i)
        p.values[i] = static_cast<float>(middle + scale * static_cast<double>(rng.normal()));
    }
    decoder->weights_changed();
    for (uint64_t i = 0; i < 3; ++i)
      sequences.push_back(some_ids(9 + 5 * static_cast<int64_t>(i), spec.vocabulary, 20 + i));
    // One that a head has nothing to say of.
    sequences.push_back(some_ids(1, spec.vocabulary, 30));
  }

  /// The model's loss a token plus the weight times the head's, over the model's targets; with a tape its gradients.
  double loss(ops::Context& context, layers::Observer* observer = nullptr, bool recompute = false) {
    const models::ModelSpec& spec = decoder->spec();
    std::vector<std::unique_ptr<layers::ResidentState>> states;
    std::vector<std::vector<int32_t>> targets;
    std::vector<models::SequenceStep> steps;
    targets.reserve(sequences.size());
    int64_t scored = 0;
    for (const std::vector<int32_t>& ids : sequences) {
      states.push_back(std::make_unique<layers::ResidentState>(models::cache_block_bytes(spec, tensor::DType::f32),
                                                               tensor::DType::f32, models::state_floats(spec)));
      states.back()->reserve(std::ssize(ids));
      targets.emplace_back(ids.begin() + 1, ids.end()).push_back(-1);
      scored += std::ssize(ids) - 1;
      steps.push_back({.ids = ids, .state = states.back().get(), .targets = targets.back()});
    }
    models::PassOptions options;
    options.observer = observer, options.recompute = recompute;
    options.gradient_weight = 1 / static_cast<double>(scored);
    decoder->take_head_loss();
    const double of_model = decoder->loss(context, steps, options);
    if (context.tape) context.tape->backward(context);
    const auto of_head = decoder->take_head_loss();
    // The last token of a sequence and the one before have no second token after them.
    EXPECT_EQ(of_head.scored, scored - 3);
    return ((trains_model_in_loss ? of_model : 0) + kWeight * of_head.sum) * options.gradient_weight;
  }

  std::vector<float> gradients(int threads, bool recompute = false) {
    threads::Pool pool(threads);
    tensor::Arena arena;
    ops::Tape tape(arena, parameters->gradients());
    ops::Context context{pool, kernels::select(), arena, ops::Precision::f32, &tape};
    parameters->clear_gradients();
    loss(context, nullptr, recompute);
    std::vector<float> result;
    for (const Parameter& p : parameters->list()) result.insert(result.end(), p.gradient, p.gradient + p.count);
    return result;
  }

  void compare_with_differences() {
    gradients(2);
    threads::Pool pool(1);
    tensor::Arena scratch;
    Plans plans(decoder->spec());
    const auto value = [&] {
      decoder->weights_changed();
      ops::Context context{pool, kernels::select(), scratch, ops::Precision::f32};
      scratch.reset();
      plans.clear();
      return loss(context, &plans);
    };
    value();
    const Plans chosen = plans;
    int64_t compared = 0, trained = 0;
    for (const Parameter& p : parameters->list()) {
      if (!p.trained) continue;
      ++trained;
      SCOPED_TRACE(p.path);
      const double norm = gradient_norm(p);
      ASSERT_GT(norm, 0) << "no gradient";
      const auto at = [&]() -> std::optional<double> {
        const double result = value();
        return plans == chosen ? std::optional(result) : std::nullopt;
      };
      const std::optional<double> error = difference_error(p, own_direction(p, norm), norm, norm, at);
      if (!error) continue;
      ++compared;
      EXPECT_LT(*error, 1e-2);
    }
    decoder->weights_changed();
    EXPECT_GE(2 * compared, trained);
  }

  tiny::Model base;  // its source holds what is frozen
  std::unique_ptr<models::PredictingDecoder> decoder;
  std::unique_ptr<Parameters> parameters;
  std::vector<std::vector<int32_t>> sequences;
  bool trains_model_in_loss = true;
};

TEST_P(PredictionGradientLaw, OfBothEqualFiniteDifferences) {
  open(true);
  compare_with_differences();
}

TEST_P(PredictionGradientLaw, OfTheHeadAloneEqualFiniteDifferences) {
  open(false);
  trains_model_in_loss = false;
  for (const Parameter& p : parameters->list()) EXPECT_TRUE(models::is_of_prediction_head(p.path)) << p.path;
  compare_with_differences();
  // Nothing of one step is left for the next.
  const std::vector<float> once = gradients(2);
  expect_same_bits(gradients(2), once, "once more");
}

TEST_P(PredictionGradientLaw, AnyThreadsGiveTheSameBitsAndSoDoesComputingAgain) {
  open(true);
  const std::vector<float> one = gradients(1);
  expect_same_bits(gradients(3), one, "three threads");
  expect_same_bits(gradients(2, true), one, "activations computed again");
}

INSTANTIATE_TEST_SUITE_P(Families, PredictionGradientLaw,
                         testing::Values("deepseek_v3", "glm4_moe", "qwen3_5_moe_text", "mimo_v2_flash", "nemotron_h"),
                         [](const auto& of) { return of.param; });

}  // namespace
}  // namespace coterie::laws
