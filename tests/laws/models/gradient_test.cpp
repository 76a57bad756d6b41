#include <cmath>

#include "base/rng.h"
#include "laws/models/bench.h"
#include "models/parameters.h"

// Gradients of every family: finite differences of its own loss, the same bits for any thread count and with
// activations computed again, micro-batches = one batch.
namespace coterie::laws {
namespace {

using models::Parameter;
using models::Parameters;
using Sequences = std::vector<std::vector<int32_t>>;

/// Which tokens went where, and for SparseMixer which experts were near the best of those left: a softmax over them is
/// the weight, so the loss jumps where one comes near.
class Plans : public layers::Tap {
 public:
  void routed(const layers::Routed& r) override {
    seen.push_back(r.plan.slot_token), seen.push_back(r.plan.expert_offset);
    if (near_best == 0) return;
    const int64_t k = std::ssize(r.chosen) / r.logits.rows;
    for (int64_t t = 0; t < r.logits.rows; ++t)
      for (int64_t i = 0; i < k; ++i) {
        const float* const row = r.logits.row(t);
        const float top = row[r.chosen[static_cast<size_t>(t * k + i)]];
        for (int64_t e = 0; e < r.logits.cols; ++e)
          near.push_back((top - row[e]) / std::max(std::abs(row[e]), top) > 2 * near_best);
      }
  }
  void clear() { seen.clear(), near.clear(); }
  bool operator==(const Plans& other) const { return seen == other.seen && near == other.near; }

  float near_best = 0;
  std::vector<std::vector<int32_t>> seen;
  std::vector<bool> near;
};

class GradientLaw : public testing::TestWithParam<std::string> {
 protected:
  GradientLaw() : model(tiny::make(GetParam())), parameters(*model.decoder) {
    for (uint64_t i = 0; i < 3; ++i)
      sequences.push_back(some_ids(9 + 5 * static_cast<int64_t>(i), model.decoder->spec().vocabulary, 20 + i));
    for (const models::BlockSpec& block : model.decoder->spec().blocks)
      if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
        if (moe->router.selection == layers::RouterSpec::Selection::sparsemixer)
          plans.near_best = moe->router.near_best;
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
    class Nothing : public layers::TensorVisitor {
      void matrix(const Tensor&, int64_t, int64_t, tensor::Weight&) override {}
      void vector(const Tensor&, int64_t, layers::Vector&) override {}
      void stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<tensor::Weight>&) override {}
    } nothing;
    model.decoder->rebind(nothing);
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
  // Clipping has corners, some of which a step crosses; the op's own test keeps away from them.
  bool clips = false;
  for (const models::BlockSpec& block : model.decoder->spec().blocks) {
    const layers::AttentionSpec* attention = models::attention_of(model.decoder->spec(), block);
    clips = clips || (attention && attention->clip_qkv);
  }
  base::Rng rng(3);
  int64_t compared = 0, trained = 0;
  for (const Parameter& p : parameters.list()) {
    if (!p.trained) continue;
    ++trained;
    SCOPED_TRACE(p.path);
    double norm = 0, size = 0;
    std::vector<double> direction(static_cast<size_t>(p.count)), random(direction);
    for (int64_t i = 0; i < p.count; ++i) norm += std::pow(static_cast<double>(p.gradient[i]), 2);
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0) << "no gradient";
    for (double& r : random) size += std::pow(r = static_cast<double>(rng.normal()), 2);
    double expected = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      const auto g = static_cast<double>(p.gradient[i]);
      direction[i] = g / norm + random[i] / std::sqrt(size);
      expected += direction[i] * g;
    }
    const std::vector<float> values(p.values, p.values + p.count);
    double best = 1e9;
    bool steady = false;
    for (double change = 4e-2; change > 3e-5 && best > 5e-3; change /= 4) {  // of the loss, about
      const double step = std::min(change / norm, 0.1);
      bool same = true;
      const auto at = [&](double steps) {
        for (size_t i = 0; i < values.size(); ++i)
          p.values[i] = static_cast<float>(static_cast<double>(values[i]) + steps * step * direction[i]);
        const double result = loss();
        same = same && plans == chosen;
        return result;
      };
      const double slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step);
      if (same) best = std::min(best, std::abs(slope - expected) / norm), steady = true;
    }
    std::copy(values.begin(), values.end(), p.values);
    if (!steady) continue;
    ++compared;
    EXPECT_LT(best, clips ? 1e-1 : 1e-2);
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

INSTANTIATE_TEST_SUITE_P(Families, GradientLaw, testing::ValuesIn(families()), [](const auto& of) {
  std::string name = of.param;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace coterie::laws
