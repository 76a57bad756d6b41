#include "gradient_harness.h"
#include "ops/loss.h"
#include "ops/moe/experts.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

struct Shape {
  int64_t tokens, width, hidden, experts, per_token;
  bool gated, bias;
};

/// E experts as leaves, and a plan over them in which expert 1 has no token and the last token no expert.
class Model {
 public:
  Model(Check& check, const Shape& shape) : check_(check), shape_(shape) {
    x_ = check.leaf(shape.tokens * shape.width);
    weights_ = check.leaf(shape.tokens * shape.per_token, 0.3, 0.6);
    for (int64_t e = 0; e < shape.experts; ++e) {
      const auto matrix = [&] { return check.leaf(shape.hidden * shape.width, 0.5); };
      up_.push_back(matrix()), down_.push_back(matrix());
      if (shape.gated) gate_.push_back(matrix());
      if (!shape.bias) continue;
      up_bias_.push_back(check.leaf(shape.hidden, 0.3)), down_bias_.push_back(check.leaf(shape.width));
      if (shape.gated) gate_bias_.push_back(check.leaf(shape.hidden, 0.3));
    }
  }

  Matrix forward(Context& context, Activation activation) {
    const auto& s = shape_;
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < s.tokens; ++t)
      for (int64_t k = 0; k < s.per_token; ++k)
        ids.push_back(t + 1 == s.tokens ? -1 : static_cast<int32_t>((2 * t + 3 * k) % s.experts));
    for (int32_t& id : ids)
      if (id == 1) id = 0;
    const std::span<const float> weights(check_.values(weights_), ids.size());
    RoutingPlan plan = make_plan(ids, weights, s.tokens, s.per_token, s.experts);
    if (context.tape) {
      plan.weight_gradient = context.tape->keep(1, plan.slots()).data;
      std::fill_n(plan.weight_gradient, plan.slots(), 0.0f);
      context.tape->record({}, [plan, weights](Reverse& back) {
        float* into = back.gradient(weights.data());
        for (int64_t i = 0; i < plan.slots(); ++i)
          into[i] += plan.weight_gradient[plan.token_slot[static_cast<size_t>(i)]];
      });
    }
    std::vector<ExpertInput> inputs;
    std::vector<ExpertOutput> outputs;
    const auto bias = [&](const std::vector<size_t>& of, size_t e) {
      return of.empty() ? nullptr : check_.values(of[e]);
    };
    for (size_t e = 0; e < static_cast<size_t>(s.experts); ++e) {
      ExpertInput& in = inputs.emplace_back();
      in.up = check_.weight(up_[e], s.hidden, s.width), in.up_bias = bias(up_bias_, e);
      if (s.gated) in.gate = check_.weight(gate_[e], s.hidden, s.width), in.gate_bias = bias(gate_bias_, e);
      outputs.push_back({check_.weight(down_[e], s.width, s.hidden), bias(down_bias_, e)});
    }
    const Matrix x = check_.activation(context, x_, s.width), y = context.arena.matrix(s.tokens, s.width);
    experts(context, x, plan, inputs, outputs, activation, s.hidden, y);
    return y;
  }
  size_t x() const { return x_; }
  size_t down(size_t e) const { return down_[e]; }
  size_t weights() const { return weights_; }

 private:
  Check& check_;
  Shape shape_;
  size_t x_, weights_;
  std::vector<size_t> gate_, up_, down_, gate_bias_, up_bias_, down_bias_;
};

TEST(ExpertsGradient, EqualsFiniteDifferences) {
  for (const bool gated : {true, false}) {
    for (const bool bias : {true, false}) {
      for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
        SCOPED_TRACE(static_cast<int>(activation));
        Check check;
        Model model(check, {4, 5, 3, 3, 2, gated, bias});
        check.run([&](Context& context) { return model.forward(context, activation); });
      }
    }
  }
}

TEST(ExpertsGradient, OfPiecesHasTheSameBitsWithAnyThreads) {
  gradient::expect_same_bits([](int threads) {
    Check check(threads);
    Model model(check, {300, 40, 200, 3, 2, true, false});
    check.go_back([&](Context& context) { return model.forward(context, Activation::silu); });
    return std::vector{check.gradient(model.x()), check.gradient(model.down(0)), check.gradient(model.weights())};
  });
}

TEST(LossGradient, EqualsFiniteDifferencesWithScaleAndCap) {
  for (const bool capped : {false, true}) {
    Check check;
    constexpr int64_t kRows = 20, kWidth = 5, kVocabulary = 7;
    const size_t x = check.leaf(kRows * kWidth), w = check.leaf(kVocabulary * kWidth), b = check.leaf(kVocabulary);
    std::vector<int32_t> targets;
    for (int64_t r = 0; r < kRows; ++r) targets.push_back(r % 5 == 3 ? -1 : static_cast<int32_t>(r % kVocabulary));
    const auto loss = [&](Context& context) {
      HeadShape head{check.weight(w, kVocabulary, kWidth), 0.5f};
      head.bias = check.values(b);
      if (capped) head.softcap = 1.5f;
      return next_token_loss(context, check.activation(context, x, kWidth), head, targets, 1);
    };
    // The op is where the backward pass begins, so the differences are taken of its value.
    check.run_scalar(loss);
  }
}

}  // namespace
}  // namespace coterie::ops
