#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "layers/moe/router.h"
#include "ops/tape.h"

// A router by itself, with weights of its own, for tests of what routers do in training.
namespace coterie::layers {

inline constexpr int64_t kWidth = 12, kTokens = 24;

/// A router with weights of its own, over two sequences.
class TestRouter : public TensorVisitor {
 public:
  explicit TestRouter(const RouterSpec& spec_) : spec(spec_), router(spec_, kWidth) {
    check(spec, "test");
    router.visit(*this, "router");
    base::Rng rng(8);
    x.resize(kTokens * kWidth);
    for (float& v : x) v = rng.normal();
    for (auto& [path, weight] : weights)
      for (int64_t i = 0; i < weight.count; ++i) weight.values[i] = 0.5f * rng.normal();
    for (int32_t t = 0; t < kTokens; ++t) positions.push_back(t < 9 ? t : t - 9), ids.push_back((7 * t) % 11);
  }
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) override {
    auto& storage = matrices[tensor.path] = tensor::Buffer<float>(rows * cols);
    slot = tensor::Weight(reinterpret_cast<const std::byte*>(storage.data()), tensor::DType::f32, rows, cols);
    weights[tensor.path] = {storage.data(), rows * cols};
  }
  void vector(const Tensor& tensor, int64_t n, Vector& slot) override {
    slot.values = tensor::Buffer<float>(n);
    weights[tensor.path] = {slot.values.data(), n};
  }
  void stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<tensor::Weight>&) override { FAIL(); }

  /// Rows begin … end of the two sequences, of which the second begins at row 9.
  ops::RoutingPlan plan(bool training, Observer* observer = nullptr, int threads = 1, int64_t begin = 0,
                        int64_t end = kTokens) {
    threads::Pool pool(threads);
    tensor::Arena arena;
    ops::Context context{pool, kernels::select(), arena};
    return run(context, training, observer, begin, end);
  }
  ops::RoutingPlan run(ops::Context& context, bool training, Observer* observer, int64_t begin, int64_t end) {
    std::vector<SequenceRows> sequences;
    if (begin < 9)
      sequences.push_back({.step = {.random_key = 100}, .first_row = 0, .rows = std::min<int64_t>(9, end) - begin});
    if (end > 9)
      sequences.push_back({.step = {.random_key = 200},
                           .first_row = std::max<int64_t>(9, begin) - begin,
                           .rows = end - std::max<int64_t>(9, begin)});
    const auto rows = static_cast<size_t>(end - begin);
    const std::span<const int32_t> at(positions.data() + begin, rows);
    const tensor::Matrix input = context.arena.matrix(end - begin, kWidth);
    std::copy_n(x.data() + begin * kWidth, input.rows * kWidth, input.data);
    return router.forward({.context = context,
                           .positions = at,
                           .sequences = sequences,
                           .pass = {.observer = observer, .training = training},
                           .ids = {ids.data() + begin, rows}},
                          2, input);
  }
  struct Values {
    float* values;
    int64_t count;
  };
  RouterSpec spec;
  Router router;
  std::map<std::string, tensor::Buffer<float>> matrices;
  std::map<std::string, Values> weights;
  std::vector<float> x;
  std::vector<int32_t> positions, ids;
};

/// A plan as (token, expert, weight), in the order of combining.
inline std::vector<std::tuple<int32_t, int64_t, float>> slots(const ops::RoutingPlan& plan, int32_t first_token = 0) {
  std::vector<std::tuple<int32_t, int64_t, float>> result;
  for (int32_t t = 0; t < plan.tokens; ++t)
    for (int32_t c = plan.token_offset[static_cast<size_t>(t)]; c < plan.token_offset[static_cast<size_t>(t) + 1];
         ++c) {
      const int32_t slot = plan.token_slot[static_cast<size_t>(c)];
      const int64_t expert =
          std::upper_bound(plan.expert_offset.begin(), plan.expert_offset.end(), slot) - plan.expert_offset.begin() - 1;
      result.emplace_back(first_token + t, expert, plan.slot_weight[static_cast<size_t>(slot)]);
    }
  return result;
}

class Watch : public Observer {
 public:
  void routed(const Routed& r) override {
    const auto copy = [](tensor::ConstMatrix m) { return std::vector<float>(m.data, m.data + m.rows * m.cols); };
    logits = copy(r.logits), noise = copy(r.noise), noisy = copy(r.noisy);
    chosen.assign(r.chosen.begin(), r.chosen.end());
  }
  std::vector<float> logits, noise, noisy;
  std::vector<int32_t> chosen;
};

/// That Σ over slots of a(token, expert) * weight has the gradient, by everything the router has, that finite
/// differences show, wherever a step does not change the plan.
inline void expect_gradients(const RouterSpec& spec) {
  TestRouter r(spec);
  const auto a = [](int32_t t, int64_t e) { return std::sin(1.0 + 2.0 * t + 0.7 * static_cast<double>(e)); };
  std::vector<std::pair<int32_t, int64_t>> chosen;
  const auto f = [&](bool& same) {
    double sum = 0;
    std::vector<std::pair<int32_t, int64_t>> now;
    for (const auto& [t, e, w] : slots(r.plan(true))) sum += a(t, e) * static_cast<double>(w), now.emplace_back(t, e);
    if (chosen.empty()) chosen = now;
    same = now == chosen;
    return sum;
  };
  bool same = true;
  const double here = f(same);

  threads::Pool pool(2);
  tensor::Arena arena;
  ops::ParameterGradients gradients;
  std::map<std::string, std::vector<float>> by;
  for (auto& [path, w] : r.weights) {
    by[path].resize(static_cast<size_t>(w.count));
    gradients.add(w.values, w.count, by[path].data());
  }
  ops::Context context{pool, kernels::select(), arena};
  ops::Tape tape(arena, gradients);
  context.tape = &tape;
  const ops::RoutingPlan plan = r.run(context, true, nullptr, 0, kTokens);
  tape.record({}, [&](ops::Reverse&) {
    for (int64_t e = 0; e < plan.experts(); ++e)
      for (int32_t s = plan.expert_offset[static_cast<size_t>(e)]; s < plan.expert_offset[static_cast<size_t>(e) + 1];
           ++s)
        plan.weight_gradient[s] += static_cast<float>(a(plan.slot_token[static_cast<size_t>(s)], e));
  });
  context.tape = nullptr;
  tape.backward(context);

  int64_t compared = 0, all = 0;
  for (auto& [path, w] : r.weights) {
    SCOPED_TRACE(path);
    double largest = 0;
    for (int64_t i = 0; i < w.count; ++i) {
      const float kept = w.values[i];
      const auto gradient = static_cast<double>(by[path][static_cast<size_t>(i)]);
      double best = 1;
      bool steady = false;
      for (const float step : {1.0f / 256, 1.0f / 2048}) {
        bool up = true, down = true;
        w.values[i] = kept + step;
        const double above = f(up);
        w.values[i] = kept - step;
        const double below = f(down);
        w.values[i] = kept;
        const bool corner = std::abs(above - 2 * here + below) > 4e-3 * static_cast<double>(step);  // of the ReLU
        if (!up || !down || corner) continue;
        steady = true;
        best = std::min(best, std::abs(gradient - (above - below) / (2 * static_cast<double>(step))));
      }
      ++all, compared += steady;
      EXPECT_TRUE(!steady || best < 4e-3) << i << ": off by " << best;
      largest = std::max(largest, std::abs(gradient));
    }
    EXPECT_GT(largest, 0.02) << "no gradient";
  }
  EXPECT_GT(2 * compared, all);
}

}  // namespace coterie::layers
