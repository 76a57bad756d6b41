#include <cmath>

#include "base/rng.h"
#include "families/family.h"
#include "laws/models/bench.h"
#include "laws/models/differences.h"
#include "layers/moe/balance.h"
#include "layers/moe/routers/kind.h"
#include "models/blank_decoder.h"
#include "models/initialise.h"
#include "models/parameters.h"

// Every rule of routing in a whole model: a Mixtral with another router. In inference all but the rules that are not
// causal keep the laws of sequences; in training gradients equal finite differences and micro-batches one batch.
namespace coterie::laws {
namespace {

using layers::RouterLossSpec;
using layers::RouterSpec;
using models::Parameter;

struct Form {
  std::string name;
  RouterSpec router;
};
std::vector<Form> forms() {
  RouterSpec plain;
  plain.experts = 6, plain.experts_per_token = 2;
  std::vector<Form> all;
  for (const layers::RouterKind* kind : layers::router_kinds()) {
    RouterSpec router = plain;
    router.selection = static_cast<RouterSpec::Selection>(all.size());
    if (kind->name == "base") router.experts_per_token = 1, router.score = RouterSpec::Score::sigmoid;
    if (kind->name == "soft") router.experts_per_token = 6, router.slots = 2;
    if (kind->name == "sparsemixer") router.near_best = 0.4f;
    all.push_back({std::string(kind->name), router});
  }
  RouterSpec noisy = plain, hidden = plain, sum = plain;
  noisy.noise = noisy.noise_bias = noisy.bias = true, noisy.jitter = 0.1f;
  noisy.order = RouterSpec::Order::select_then_score;
  RouterSpec capacity = noisy;
  capacity.capacity = {0.9, RouterSpec::Capacity::Order::probability, true};
  hidden.hidden = 12, hidden.bias = hidden.renormalise = true;
  sum.combine = RouterSpec::Combine::sum;
  for (const Form& form : {Form{"noisy", noisy}, {"capacity", capacity}, {"hidden", hidden}, {"sum", sum}})
    all.push_back(form);
  return all;
}

class Plans : public layers::Observer {
 public:
  void routed(const layers::Routed& r) override {
    seen.emplace_back(r.chosen.begin(), r.chosen.end());
    seen.push_back(r.plan.slot_token);
  }
  std::vector<std::vector<int32_t>> seen;
};

class RouterLaw : public testing::TestWithParam<Form> {
 protected:
  RouterLaw() {
    spec = families::read_config(tiny::configs().at("mixtral"), "tiny", true);
    for (models::BlockSpec& block : spec.blocks) {
      auto& moe = std::get<layers::MoeSpec>(block.ffn);
      moe.router = GetParam().router;
      layers::check(moe.router, "law");
    }
    spec.router_aux_loss = 0;
    decoder = models::blank_decoder(spec);
    parameters.emplace(*decoder);
    models::initialise(*parameters, spec, {.std = 0.3, .scale_residual = false}, 5);
    decoder->weights_changed();
    for (uint64_t i = 0; i < 3; ++i)
      sequences.push_back(some_ids(8 + 4 * static_cast<int64_t>(i), spec.vocabulary, 30 + i));
  }
  bool causal() const { return layers::kind_of(GetParam().router.selection).causal; }

  /// Sequences `which` of the batch in training; under a tape with gradients where `back`.
  double loss(std::vector<size_t> which, bool back, layers::Observer* observer = nullptr, int threads = 1,
              bool training = true, const layers::RouterLoss* losses = nullptr) {
    threads::Pool pool(threads);
    tensor::Arena arena;
    ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
    ops::Tape tape(arena, parameters->gradients());
    if (back) context.tape = &tape;
    std::vector<std::unique_ptr<layers::ResidentState>> states;
    std::vector<models::SequenceStep> steps;
    std::vector<std::vector<int32_t>> targets;
    targets.reserve(which.size());
    for (const size_t i : which) {
      const std::vector<int32_t>& ids = sequences[i];
      states.push_back(std::make_unique<layers::ResidentState>(models::cache_block_bytes(spec, tensor::DType::f32),
                                                               tensor::DType::f32, models::state_floats(spec)));
      states.back()->reserve(std::ssize(ids));
      targets.emplace_back(ids.begin() + 1, ids.end()).push_back(-1);
      steps.push_back({.ids = ids, .state = states.back().get(), .random_key = 1000 + i, .targets = targets.back()});
    }
    const double sum = decoder->loss(
        context, steps,
        {.observer = observer, .training = training, .dropout = training ? dropout : 0, .router_loss = losses});
    context.tape = nullptr;
    if (back) tape.backward(context);
    return sum;
  }
  std::vector<float> gradients(const std::vector<std::vector<size_t>>& parts, int threads = 1,
                               layers::RouterLosses* losses = nullptr) {
    parameters->clear_gradients();
    for (const std::vector<size_t>& part : parts) {
      if (losses) losses->set_share(static_cast<double>(part.size()) / 3);
      loss(part, true, losses, threads, true, losses);
    }
    std::vector<float> all;
    for (const Parameter& p : parameters->list()) all.insert(all.end(), p.gradient, p.gradient + p.count);
    return all;
  }

  models::ModelSpec spec;
  std::unique_ptr<models::Decoder> decoder;
  std::optional<models::Parameters> parameters;
  float dropout = 0.1f;
  std::vector<std::vector<int32_t>> sequences;
};

TEST_P(RouterLaw, DecodeIsPrefillAndABatchIsOneByOneWhereARuleIsCausal) {
  for (const kernels::Candidate& candidate : kernels::candidates()) {
    if (!candidate.usable) continue;
    Runner runner({"mixtral", std::string(candidate.table->isa)}, *decoder);
    const std::vector<int32_t>& ids = sequences[2];
    const std::vector<float> whole = runner.whole(ids);
    if (!causal()) {
      // The exemption is deserved: what comes last changes what came before.
      std::vector<int32_t> other = ids;
      other.back() = (other.back() + 1) % static_cast<int32_t>(spec.vocabulary);
      const std::vector<float> changed = runner.whole(other);
      EXPECT_FALSE(std::equal(whole.begin(), whole.end() - spec.vocabulary, changed.begin()));
    } else {
      expect_same_bits(runner.pieces(ids, std::vector<int64_t>(ids.size(), 1)), whole, "token by token");
      expect_same_bits(runner.pieces(ids, std::vector<int64_t>{5, std::ssize(ids) - 5}), whole, "cut");
    }
    layers::ResidentState a = runner.state(), b = runner.state();
    const std::vector<std::span<const int32_t>> both = {ids, sequences[1]};
    const std::vector<layers::ResidentState*> states = {&a, &b};
    std::vector<float> batch = runner.step(both, states);
    batch.resize(whole.size());
    expect_same_bits(batch, whole, "beside another sequence");  // under expert choice and Soft MoE too: by sequence
    Runner more({"mixtral", std::string(candidate.table->isa)}, *decoder, 3);
    expect_same_bits(more.whole(ids), whole, "three threads");
  }
}

// Along each tensor's own gradient. A step must not change a choice, nor for SparseMixer who is near.
TEST_P(RouterLaw, GradientsInTrainingEqualFiniteDifferences) {
  if (GetParam().name == "sparsemixer") return;  // in training an estimator; tests/unit/layers/router_kinds_test.cpp
  gradients({{0, 1, 2}});
  Plans plans;
  loss({0, 1, 2}, false, &plans);
  int64_t compared = 0, trained = 0;
  for (const Parameter& p : parameters->list()) {
    const double norm = gradient_norm(p);
    const bool router = p.place == layers::Place::router;
    if (!p.trained || (router && GetParam().router.combine == RouterSpec::Combine::sum)) continue;
    SCOPED_TRACE(p.path);
    ASSERT_GT(norm, 0) << "no gradient";
    ++trained;
    const auto value = [&]() -> std::optional<double> {
      decoder->weights_changed();
      Plans now;
      const double result = loss({0, 1, 2}, false, &now);
      if (now.seen != plans.seen) return std::nullopt;
      return result;
    };
    const std::optional<double> error = difference_error(p, own_direction(p, norm), norm, norm, value);
    decoder->weights_changed();
    if (!error) continue;
    ++compared;
    EXPECT_LT(*error, 1e-2);
  }
  EXPECT_GE(2 * compared, trained);
}

// Rules of a token and of a sequence, with noise, jitter, dropout and a balance loss by sequence. What evens the loads
// of a step, and a capacity, are of the step.
TEST_P(RouterLaw, MicroBatchesEqualOneBatchAndAnyThreadsGiveTheSameBits) {
  RouterLossSpec losses{RouterLossSpec::Balance::all_choices, 0.1, 0.0, GetParam().router.score,
                        RouterLossSpec::Scope::sequence};
  const bool soft = GetParam().name == "soft";
  layers::RouterLosses by_sequence(losses);
  layers::RouterLosses* const listen = soft ? nullptr : &by_sequence;
  const std::vector<float> whole = gradients({{0, 1, 2}}, 1, listen);
  expect_same_bits(gradients({{0, 1, 2}}, 3, listen), whole, "three threads");
  if (GetParam().router.capacity || GetParam().name == "sinkhorn" || GetParam().name == "base") return;
  const std::vector<float> parts = gradients({{0}, {1, 2}}, 1, listen);
  float largest = 0;
  for (const float g : whole) largest = std::max(largest, std::abs(g));
  for (size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(parts[i], whole[i], 1e-5f * largest) << i;
}

// The same rule in both modes, without what a mode adds: with dropout off, a step of training takes the same experts,
// to the bit. Rules that are others in training by their definition are left out by name.
TEST_P(RouterLaw, ExpertsOfTrainingAreThoseOfInference) {
  const RouterSpec& r = GetParam().router;
  if (r.noise || r.jitter > 0 || r.capacity || GetParam().name == "sparsemixer" || GetParam().name == "sinkhorn" ||
      GetParam().name == "base" || GetParam().name == "soft")
    return;
  Plans training, inference;
  dropout = 0;
  loss({0, 1, 2}, true, &training);
  loss({0, 1, 2}, false, &inference, 1, false);
  ASSERT_FALSE(training.seen.empty());
  EXPECT_EQ(training.seen, inference.seen);
}

INSTANTIATE_TEST_SUITE_P(Forms, RouterLaw, testing::ValuesIn(forms()), [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace coterie::laws
