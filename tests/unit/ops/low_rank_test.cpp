#include <algorithm>
#include <array>

#include "gradient_harness.h"
#include "ops/elementwise.h"
#include "ops/moe/experts.h"

// Adapters: gradients of every A and B, frozen or decoded weights below them, expert dropout, DoRA's columns.
namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;
using tensor::Weight;

struct Shape {
  int64_t tokens = 4, width = 5, hidden = 6, experts = 3, rank = 2;
  bool gated = true, share_a = true;
  float dropped = 0;
};

/// Experts with adapters over all weights but those of expert 2, which has none over down.
class Model {
 public:
  Model(Check& check, const Shape& shape) : check_(check), s_(shape) {
    x_ = check.leaf(s_.tokens * s_.width);
    const auto constant = [&](int64_t count) {
      std::vector<float>& values = constants_.emplace_back();
      for (int64_t i = 0; i < count; ++i) values.push_back(rng_.normal() * 0.5f);
      return constants_.size() - 1;
    };
    for (int64_t e = 0; e < s_.experts; ++e) {
      Of of;
      for (size_t& weight : of.weights) weight = constant(s_.hidden * s_.width);
      of.gate_a = check.leaf(s_.rank * s_.width, 0.5);
      of.up_a = s_.share_a ? of.gate_a : check.leaf(s_.rank * s_.width, 0.5);
      of.gate_b = check.leaf(s_.hidden * s_.rank, 0.5), of.up_b = check.leaf(s_.hidden * s_.rank, 0.5);
      of.down_a = check.leaf(s_.rank * s_.hidden, 0.5), of.down_b = check.leaf(s_.width * s_.rank, 0.5);
      experts_.push_back(of);
    }
    for (int64_t t = 0; t < s_.tokens; ++t) rows_.push_back({7, t});
  }

  Matrix forward(Context& context) {
    std::vector<int32_t> ids;
    std::vector<float> weights;
    for (int64_t t = 0; t < s_.tokens; ++t)
      for (int64_t k = 0; k < 2; ++k)
        ids.push_back(static_cast<int32_t>((t + k) % s_.experts)),
            weights.push_back(0.4f + 0.2f * static_cast<float>(k));
    const RoutingPlan plan = make_plan(ids, weights, s_.tokens, 2, s_.experts);
    std::vector<ExpertInput> inputs;
    std::vector<ExpertOutput> outputs;
    for (int64_t e = 0; e < s_.experts; ++e) {
      const Of& of = experts_[static_cast<size_t>(e)];
      ExpertInput& in = inputs.emplace_back();
      const float scale = 0.7f;
      in.up = fixed(of.weights[0], s_.hidden, s_.width);
      in.up_low = {check_.weight(of.up_a, s_.rank, s_.width), check_.weight(of.up_b, s_.hidden, s_.rank), scale};
      if (s_.gated) {
        in.gate = fixed(of.weights[1], s_.hidden, s_.width);
        in.gate_low = {check_.weight(of.gate_a, s_.rank, s_.width), check_.weight(of.gate_b, s_.hidden, s_.rank),
                       scale};
      }
      ExpertOutput& out = outputs.emplace_back();
      out.down = fixed(of.weights[2], s_.width, s_.hidden);
      if (e != 2)
        out.low = {check_.weight(of.down_a, s_.rank, s_.hidden), check_.weight(of.down_b, s_.width, s_.rank), scale};
    }
    if (without) {
      for (ExpertInput& in : inputs) in.gate_low = in.up_low = {};
      for (ExpertOutput& out : outputs) out.low = {};
    }
    const Matrix x = check_.activation(context, x_, s_.width), y = context.arena.matrix(s_.tokens, s_.width);
    experts(context, x, plan, inputs, outputs, Activation::silu, s_.hidden, y, {s_.dropped, rows_, 40});
    return y;
  }

  void zero_b() {
    for (const Of& of : experts_)
      for (const size_t b : {of.gate_b, of.up_b}) std::fill_n(check_.values(b), s_.hidden * s_.rank, 0.0f);
    for (const Of& of : experts_) std::fill_n(check_.values(of.down_b), s_.width * s_.rank, 0.0f);
  }
  bool without = false;

 private:
  struct Of {
    std::array<size_t, 3> weights;  // up, gate, down
    size_t gate_a, gate_b, up_a, up_b, down_a, down_b;
  };
  Weight fixed(size_t constant, int64_t rows, int64_t cols) const {
    return {reinterpret_cast<const std::byte*>(constants_[constant].data()), tensor::DType::f32, rows, cols};
  }
  Check& check_;
  Shape s_;
  base::Rng rng_{9};
  size_t x_;
  std::vector<std::vector<float>> constants_;
  std::vector<Of> experts_;
  std::vector<DropoutRow> rows_;
};

TEST(LowRank, OfExpertsHasTheGradientsOfFiniteDifferences) {
  for (const bool gated : {true, false})
    for (const bool share_a : {true, false}) {
      SCOPED_TRACE(testing::Message() << "gated " << gated << ", one A " << share_a);
      Check check;
      Model model(check, {.gated = gated, .share_a = share_a});
      check.run([&](Context& context) { return model.forward(context); });
    }
}

TEST(LowRank, OfExpertsWithDropoutHasTheGradientsOfFiniteDifferences) {
  Check check;
  Model model(check, {.hidden = 12, .dropped = 0.4f});
  check.run([&](Context& context) { return model.forward(context); });
}

std::vector<float> result(const std::function<Matrix(Context&)>& forward) {
  threads::Pool pool(2);
  tensor::Arena arena;
  Context context{pool, kernels::select(), arena, Precision::f32};
  const Matrix y = forward(context);
  return {y.data, y.data + y.rows * y.cols};
}

TEST(LowRank, WithBZeroChangesNoBit) {
  Check check;
  // Enough slots that both ways of the second half are taken.
  for (const int64_t tokens : {5, 900}) {
    Model model(check, {.tokens = tokens, .width = 24, .hidden = 150, .rank = 3});
    const auto forward = [&](Context& context) { return model.forward(context); };
    const std::vector<float> changed = result(forward);
    model.zero_b();
    const std::vector<float> zero = result(forward);
    model.without = true;
    EXPECT_EQ(zero, result(forward)) << tokens;
    EXPECT_NE(zero, changed) << tokens;
  }
}

TEST(LowRank, OfAMatrixHasTheGradientsOfFiniteDifferences) {
  Check check;
  const size_t x = check.leaf(6 * 5), w = check.leaf(4 * 5), a = check.leaf(2 * 5), b = check.leaf(4 * 2),
               m = check.leaf(4), bias = check.leaf(4);
  const std::vector<float> norm = {0.5f, 2, 1.25f, 3};
  check.run([&](Context& context) {
    const Matrix in = check.activation(context, x, 5), y = context.arena.matrix(6, 4);
    matmul(context, in, check.weight(w, 4, 5), nullptr, y);
    add_low_rank(context, in, {check.weight(a, 2, 5), check.weight(b, 4, 2), 0.3f}, y);
    scale_columns(context, y, check.values(m), norm.data(), check.values(bias));
    activate(context, Activation::silu, y);
    return y;
  });
}

}  // namespace
}  // namespace coterie::ops
