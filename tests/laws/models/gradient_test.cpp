#include <cmath>

#include "base/rng.h"
#include "laws/models/bench.h"
#include "laws/models/differences.h"
#include "models/loss.h"
#include "models/parameters.h"

// Gradients of every family: finite differences of its own loss, the same bits for any thread count and with
// activations computed again, micro-batches = one batch.
namespace coterie::laws {
namespace {

using models::Parameter;
using models::Parameters;
using Sequences = std::vector<std::vector<int32_t>>;

class GradientLaw : public testing::TestWithParam<std::string> {
 protected:
  GradientLaw() : model(tiny::make(GetParam())), parameters(*model.decoder), plans(model.decoder->spec()) {
    for (uint64_t i = 0; i < 3; ++i)
      sequences.push_back(some_ids(9 + 5 * static_cast<int64_t>(i), model.decoder->spec().vocabulary, 20 + i));
  }

  models::BatchLoss go_back(const Sequences& batch, int threads = 2, bool recompute = false) {
    threads::Pool pool(threads);
    tensor::Arena arena;
    ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
    const std::vector<std::span<const int32_t>> ids(batch.begin(), batch.end());
    ops::Tape tape(arena, parameters.gradients());
    return models::add_gradients(context, tape, *model.decoder, ids, recompute);
  }

  /// Of one parameter after another, from none.
  std::vector<float> gradients(const Sequences& batch, int threads = 2, bool recompute = false) {
    parameters.clear_gradients();
    go_back(batch, threads, recompute);
    return all();
  }
  std::vector<float> all() const {
    std::vector<float> result;
    for (const Parameter& p : parameters.list()) result.insert(result.end(), p.gradient, p.gradient + p.count);
    return result;
  }

  /// Notes in `plans` who went where.
  double loss() {
    model.decoder->weights_changed();
    ops::Context context{differences, kernels::select(), scratch, ops::Precision::f32};
    scratch.reset();
    plans.clear();
    const std::vector<std::span<const int32_t>> ids(sequences.begin(), sequences.end());
    const models::BatchLoss loss = models::batch_loss(context, *model.decoder, ids, &plans);
    return loss.cross_entropy + loss.balance;
  }

  tiny::Model model;
  Parameters parameters;
  threads::Pool differences{1};
  tensor::Arena scratch;
  Plans plans;
  Sequences sequences;
};

// Along a direction that is the gradient's own and a random one in equal parts. A step must not cross a router's
// choice, where there is no derivative: shorter ones are tried, down to what the loss's rounding leaves to see.
TEST_P(GradientLaw, EqualsFiniteDifferences) {
  gradients(sequences);
  loss();
  const Plans chosen = plans;
  base::Rng rng(3);
  int64_t compared = 0, trained = 0;
  for (const Parameter& p : parameters.list()) {
    // What an indexer chooses has no derivative: it is trained by a loss of its own, elsewhere.
    if (!p.trained || p.path.find(".indexer.") != std::string::npos) continue;
    ++trained;
    SCOPED_TRACE(p.path);
    const double norm = gradient_norm(p);
    double size = 0;
    std::vector<double> direction(static_cast<size_t>(p.count)), random(direction);
    ASSERT_GT(norm, 0) << "no gradient";
    for (double& r : random) size += std::pow(r = static_cast<double>(rng.normal()), 2);
    double expected = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      const auto g = static_cast<double>(p.gradient[i]);
      direction[i] = g / norm + random[i] / std::sqrt(size);
      expected += direction[i] * g;
    }
    const auto value = [&]() -> std::optional<double> {
      const double result = loss();
      if (!(plans == chosen)) return std::nullopt;
      return result;
    };
    const std::optional<double> error = difference_error(p, direction, norm, expected, value);
    if (!error) continue;
    ++compared;
    EXPECT_LT(*error, clips(model.decoder->spec()) ? 1e-1 : 1e-2);
  }
  loss();  // what layers derive from weights is as it was
  EXPECT_GE(2 * compared, trained);
}

TEST_P(GradientLaw, AnyThreadsGiveTheSameBitsAndSoDoesComputingAgain) {
  const std::vector<float> one = gradients(sequences, 1);
  expect_same_bits(gradients(sequences, 2), one, "two threads");
  expect_same_bits(gradients(sequences, 3), one, "three threads");
  expect_same_bits(gradients(sequences, 2, true), one, "activations computed again");
}

// Means over the batch, so a micro-batch counts by its predictions. Balance losses of a whole batch do not add up: a
// model that has one is left out.
TEST_P(GradientLaw, MicroBatchesEqualOneBatch) {
  if (model.decoder->spec().router_aux_loss > 0) return;
  const std::vector<float> whole = gradients(sequences);
  double predictions = 0;
  for (const auto& ids : sequences) predictions += static_cast<double>(ids.size() - 1);
  std::vector<float> sum(whole.size());
  for (const auto& ids : sequences) {
    const std::vector<float> part = gradients({ids});
    const double share = static_cast<double>(ids.size() - 1) / predictions;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<float>(share * static_cast<double>(part[i]));
  }
  float largest = 0;
  for (const float g : whole) largest = std::max(largest, std::abs(g));
  for (size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(sum[i], whole[i], 1e-5f * largest) << i;
}

std::vector<std::string> families() {
  std::vector<std::string> result;
  for (const auto& [name, config] : tiny::configs()) result.push_back(name);
  return result;
}

INSTANTIATE_TEST_SUITE_P(Families, GradientLaw, testing::ValuesIn(families()), [](const auto& of) { return of.param; });

}  // namespace
}  // namespace coterie::laws
