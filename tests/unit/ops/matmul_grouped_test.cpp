#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "base/error.h"
#include "ops/moe/down.h"
#include "ops/moe/experts.h"
#include "ops/moe/gated_matmul.h"
#include "unit/kernels/random_weights.h"

namespace coterie::ops {
namespace {

using tensor::DType;
using test::random_values;
using test::RandomWeight;

struct Engine {
  threads::Pool pool;
  tensor::Arena arena;
  Context context;
  explicit Engine(const kernels::KernelTable& table, Precision precision = Precision::fast, int threads = 1)
      : pool(threads), context{pool, table, arena, precision} {}
};

void expect_same_bits(std::span<const float> a, std::span<const float> b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << "at " << i << ": " << a[i] << " and " << b[i];
}

struct Experts {
  std::vector<RandomWeight> gates, ups, downs;
  std::vector<std::vector<float>> biases;
  std::vector<ExpertInput> inputs;
  std::vector<ExpertOutput> outputs;

  Experts(DType dtype, int64_t count, int64_t d, int64_t f, bool gated, bool biased) {
    for (int64_t e = 0; e < count; ++e) {
      const uint64_t seed = static_cast<uint64_t>(e);
      gates.emplace_back(dtype, f, d, 100 + seed), ups.emplace_back(dtype, f, d, 200 + seed);
      downs.emplace_back(dtype, d, f, 300 + seed);
      biases.push_back(random_values(f, 400 + seed)), biases.push_back(random_values(f, 500 + seed));
      biases.push_back(random_values(d, 600 + seed));
    }
    for (size_t e = 0; e < static_cast<size_t>(count); ++e) {
      inputs.push_back({gated ? gates[e].view() : Weight(), ups[e], biased && gated ? biases[3 * e].data() : nullptr,
                        biased ? biases[3 * e + 1].data() : nullptr});
      outputs.push_back({downs[e], biased ? biases[3 * e + 2].data() : nullptr});
    }
  }
};

struct Result {
  std::vector<float> h, y;
};
Result run(Context& context, const Experts& experts, Activation activation, std::span<const float> x, int64_t d,
           int64_t f, const RoutingPlan& plan) {
  Result result{std::vector<float>(static_cast<size_t>(plan.slots() * f), NAN),
                std::vector<float>(static_cast<size_t>(plan.tokens * d), NAN)};
  const Matrix h(result.h.data(), plan.slots(), f);
  grouped_gated_matmul(context, ConstMatrix(x.data(), plan.tokens, d), plan, experts.inputs, activation, h);
  grouped_down_combine(context, h, plan, experts.outputs, Matrix(result.y.data(), plan.tokens, d));
  return result;
}

/// The same layer written down token by token with matmul alone.
Result plain(Context& context, const Experts& experts, Activation activation, std::span<const float> x, int64_t d,
             int64_t f, const RoutingPlan& plan) {
  Result result{std::vector<float>(static_cast<size_t>(plan.slots() * f)),
                std::vector<float>(static_cast<size_t>(plan.tokens * d), 0.0f)};
  for (int64_t t = 0; t < plan.tokens; ++t) {
    const ConstMatrix token(x.data() + t * d, 1, d);
    bool first = true;
    for (int32_t c = plan.token_offset[static_cast<size_t>(t)]; c < plan.token_offset[static_cast<size_t>(t) + 1];
         ++c) {
      const int64_t slot = plan.token_slot[static_cast<size_t>(c)];
      size_t e = 0;
      while (plan.expert_offset[e + 1] <= slot) ++e;
      const Matrix h(result.h.data() + slot * f, 1, f);
      std::vector<float> up(static_cast<size_t>(f)), out(static_cast<size_t>(d));
      const ExpertInput& in = experts.inputs[e];
      if (in.gate) {
        matmul(context, token, in.gate, in.gate_bias, h);
        matmul(context, token, in.up, in.up_bias, Matrix(up.data(), 1, f));
        context.kernels.vector.activate(activation, h.data, up.data(), f);
      } else {
        matmul(context, token, in.up, in.up_bias, h);
        context.kernels.vector.activate(activation, h.data, nullptr, f);
      }
      matmul(context, h, experts.outputs[e].down, experts.outputs[e].bias, Matrix(out.data(), 1, d));
      float* y = result.y.data() + t * d;
      const float weight = plan.slot_weight[static_cast<size_t>(slot)];
      if (first) {
        for (int64_t i = 0; i < d; ++i) y[i] = weight * out[static_cast<size_t>(i)];
      } else {
        context.kernels.vector.add_scaled(out.data(), weight, y, d);
      }
      first = false;
    }
  }
  return result;
}

RoutingPlan random_plan(int64_t tokens, int64_t k, int64_t experts, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<int32_t> ids;
  std::vector<float> weights;
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t first = static_cast<int32_t>(rng.below(static_cast<uint32_t>(experts)));
    for (int32_t i = 0; i < k; ++i) {
      ids.push_back(t % 5 == 4 ? -1 : (first + i * 3) % static_cast<int32_t>(experts));
      weights.push_back(rng.uniform());
    }
  }
  return make_plan(ids, weights, tokens, k, experts);
}

TEST(GroupedMatmul, EqualsMatmulTokenByTokenToTheBit) {
  for (const kernels::Candidate& candidate : kernels::candidates()) {
    if (!candidate.usable) continue;
    for (DType dtype : {DType::q4_k, DType::q6_k, DType::q8_0, DType::mxfp4, DType::bf16, DType::f32}) {
      const int64_t d = 512, f = 256, experts = 7;
      for (bool gated : {true, false}) {
        const Experts weights(dtype, experts, d, f, gated, !gated || dtype == DType::q8_0);
        for (int64_t tokens : {1, 3, 40}) {
          const RoutingPlan plan = random_plan(tokens, 2, experts, static_cast<uint64_t>(tokens));
          const std::vector<float> x = random_values(tokens * d, 50);
          for (Precision precision : {Precision::fast, Precision::f32}) {
            Engine one(*candidate.table, precision);
            const Activation activation = gated ? Activation::silu : Activation::relu2;
            const Result expected = plain(one.context, weights, activation, x, d, f, plan);
            // Pools are dear (workers spin): all sizes on one case, the caller alone on the others.
            for (int threads = 1; threads <= (tokens == 40 && dtype == DType::q4_k ? 3 : 1); ++threads) {
              Engine engine(*candidate.table, precision, threads);
              const Result found = run(engine.context, weights, activation, x, d, f, plan);
              expect_same_bits(found.h, expected.h);
              expect_same_bits(found.y, expected.y);
            }
          }
        }
      }
    }
  }
}

TEST(GroupedMatmul, OfColumnsInAnOrderOfTheirOwnEqualsMatmulToTheBit) {
  const int64_t d = 128, f = 64, count = 5;
  std::vector<int32_t> of_d(d), of_f(f);
  for (int32_t i = 0; i < d; ++i) of_d[static_cast<size_t>(i)] = (i * 37 + 5) % static_cast<int32_t>(d);
  for (int32_t i = 0; i < f; ++i) of_f[static_cast<size_t>(i)] = (i * 11 + 3) % static_cast<int32_t>(f);
  Experts weights(DType::int4_32_f16, count, d, f, true, false);
  for (ExpertInput& input : weights.inputs) input.gate.columns = input.up.columns = of_d.data();
  for (ExpertOutput& output : weights.outputs) output.down.columns = of_f.data();
  const RoutingPlan plan = random_plan(90, 2, count, 3);
  const std::vector<float> x = random_values(90 * d, 50);
  Engine one(kernels::select()), two(kernels::select(), Precision::fast, 2);
  const Result expected = plain(one.context, weights, Activation::silu, x, d, f, plan);
  for (Engine* engine : {&one, &two}) {
    const Result found = run(engine->context, weights, Activation::silu, x, d, f, plan);
    expect_same_bits(found.h, expected.h);
    expect_same_bits(found.y, expected.y);
  }
}

TEST(GroupedMatmul, OfOneExpertIsTheDenseLayer) {
  const int64_t d = 256, f = 512, tokens = 11;
  const Experts weights(DType::q5_k, 1, d, f, true, true);
  const std::vector<float> x = random_values(tokens * d, 60);
  Engine engine(kernels::select(), Precision::fast, 2);
  RoutingPlan storage;
  const Result found = run(engine.context, weights, Activation::gelu_tanh, x, d, f, dense_plan(tokens, storage));
  std::vector<float> gate(static_cast<size_t>(tokens * f)), up(gate.size()), y(static_cast<size_t>(tokens * d));
  const ConstMatrix in(x.data(), tokens, d);
  matmul(engine.context, in, weights.inputs[0].gate, weights.inputs[0].gate_bias, Matrix(gate.data(), tokens, f));
  matmul(engine.context, in, weights.inputs[0].up, weights.inputs[0].up_bias, Matrix(up.data(), tokens, f));
  for (int64_t t = 0; t < tokens; ++t)
    engine.context.kernels.vector.activate(Activation::gelu_tanh, gate.data() + t * f, up.data() + t * f, f);
  matmul(engine.context, ConstMatrix(gate.data(), tokens, f), weights.outputs[0].down, weights.outputs[0].bias,
         Matrix(y.data(), tokens, d));
  expect_same_bits(found.h, gate);
  expect_same_bits(found.y, y);
}

TEST(GroupedMatmul, GivesTokensWithoutSlotsZeros) {
  const int64_t d = 256, f = 256;
  const Experts weights(DType::q4_0, 2, d, f, true, false);
  const std::vector<float> x = random_values(3 * d, 70);
  Engine engine(kernels::select());
  const RoutingPlan some = make_plan(std::vector<int32_t>{1, -1, 1}, std::vector<float>{0.5f, 0, 2}, 3, 1, 2);
  const Result found = run(engine.context, weights, Activation::silu, x, d, f, some);
  for (size_t i = d; i < 2 * d; ++i) EXPECT_EQ(found.y[i], 0.0f);
  EXPECT_NE(found.y[0], 0.0f);
  const RoutingPlan none = make_plan(std::vector<int32_t>{-1, -1, -1}, std::vector<float>{0, 0, 0}, 3, 1, 2);
  for (float value : run(engine.context, weights, Activation::silu, x, d, f, none).y) EXPECT_EQ(value, 0.0f);
}

TEST(GroupedMatmul, DoesNotTouchExpertsWithoutTokens) {
  const int64_t d = 256, f = 256;
  Experts weights(DType::q4_0, 2, d, f, true, false);
  weights.inputs[0] = {}, weights.outputs[0] = {};  // not loaded
  const std::vector<float> x = random_values(d, 80);
  Engine engine(kernels::select());
  const RoutingPlan plan = make_plan(std::vector<int32_t>{1}, std::vector<float>{1}, 1, 1, 2);
  for (float value : run(engine.context, weights, Activation::silu, x, d, f, plan).y) EXPECT_TRUE(std::isfinite(value));
}

TEST(GroupedMatmul, RefusesPlansThatDoNotFit) {
  const int64_t d = 256, f = 256;
  const Experts weights(DType::q4_0, 2, d, f, true, false);
  const std::vector<float> x = random_values(2 * d, 90);
  std::vector<float> h(static_cast<size_t>(2 * f));
  Engine engine(kernels::select());
  const RoutingPlan plan = make_plan(std::vector<int32_t>{1, 0}, std::vector<float>{1, 1}, 2, 1, 2);
  const auto attempt = [&](int64_t tokens, size_t experts, int64_t slots, int64_t width) {
    grouped_gated_matmul(engine.context, ConstMatrix(x.data(), tokens, d), plan,
                         std::span(weights.inputs).first(experts), Activation::silu, Matrix(h.data(), slots, width));
  };
  attempt(2, 2, 2, f);
  EXPECT_THROW(attempt(1, 2, 2, f), base::Error);
  EXPECT_THROW(attempt(2, 1, 2, f), base::Error);
  EXPECT_THROW(attempt(2, 2, 1, f), base::Error);
  EXPECT_THROW(attempt(2, 2, 2, f - 1), base::Error);
}

}  // namespace
}  // namespace coterie::ops
