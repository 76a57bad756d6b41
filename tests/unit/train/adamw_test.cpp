#include "train/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "checkpoint/tensor_source.h"
#include "support/temp_folder.h"

namespace coterie::train {
namespace {

// The definition, one number at a time, in f64.
struct Reference {
  double w, m = 0, v = 0;
  int64_t t = 0;
  void step(double g, double rate, double decay) {
    ++t;
    w -= rate * decay * w;
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    const double mean = m / (1 - std::pow(0.9, t)), square = v / (1 - std::pow(0.95, t));
    w -= rate * mean / (std::sqrt(square) + 1e-8);
  }
};

struct Problem {
  // Longer than a piece, and not a multiple of anything.
  static constexpr size_t kLong = 100'003, kShort = 7;
  std::vector<float> a = draw(kLong, 1), b = draw(kShort, 2), ga = draw(kLong, 3), gb = draw(kShort, 4);
  AdamW optimiser{AdamWSpec{}};
  Problem() {
    optimiser.add("a", a, ga, 0.1);
    optimiser.add("b", b, gb, 0, 0.5);
  }
  static std::vector<float> draw(size_t n, uint64_t stream) {
    base::Rng rng(11, stream);
    std::vector<float> values(n);
    for (float& value : values) value = rng.normal();
    return values;
  }
  void next_gradients(int step) {
    std::ranges::copy(draw(kLong, 100 + step), ga.begin());
    std::ranges::copy(draw(kShort, 200 + step), gb.begin());
  }
};

TEST(AdamW, IsTheDefinition) {
  Problem problem;
  threads::Pool pool(2);
  Reference first{problem.a[5]}, last{problem.a[Problem::kLong - 1]}, slow{problem.b[3]};
  for (int step = 0; step < 20; ++step) {
    problem.next_gradients(step);
    first.step(0.5 * problem.ga[5], 1e-2, 0.1);
    last.step(0.5 * problem.ga[Problem::kLong - 1], 1e-2, 0.1);
    slow.step(0.5 * problem.gb[3], 0.5e-2, 0);
    problem.optimiser.step(pool, 1e-2, 0.5);
  }
  EXPECT_NEAR(problem.a[5], first.w, 2e-6);
  EXPECT_NEAR(problem.a[Problem::kLong - 1], last.w, 2e-6);
  EXPECT_NEAR(problem.b[3], slow.w, 2e-6);
  EXPECT_EQ(problem.optimiser.parameters(), static_cast<int64_t>(Problem::kLong + Problem::kShort));
}

TEST(AdamW, BitsDoNotDependOnTheThreads) {
  Problem one, three;
  threads::Pool pool1(1), pool3(3);
  for (int step = 0; step < 3; ++step) {
    EXPECT_EQ(one.optimiser.gradient_norm(pool1), three.optimiser.gradient_norm(pool3));
    one.optimiser.step(pool1, 1e-2, 1);
    three.optimiser.step(pool3, 1e-2, 1);
  }
  EXPECT_EQ(one.a, three.a);
  EXPECT_EQ(one.b, three.b);
}

TEST(AdamW, NormIsOverAllGradients) {
  Problem problem;
  threads::Pool pool(2);
  double sum = 0;
  for (const float g : problem.ga) sum += static_cast<double>(g) * g;
  for (const float g : problem.gb) sum += static_cast<double>(g) * g;
  EXPECT_NEAR(problem.optimiser.gradient_norm(pool), std::sqrt(sum), 1e-9 * std::sqrt(sum));
}

TEST(AdamW, ResumesToTheSameBits) {
  const TempFolder folder;
  threads::Pool pool(2);
  Problem whole, cut;
  for (int step = 0; step < 4; ++step) {
    for (Problem* problem : {&whole, &cut}) {
      problem->next_gradients(step);
      if (step < 2 || problem == &whole) problem->optimiser.step(pool, 1e-2, 1);
    }
    if (step == 1) checkpoint::write_safetensors(folder / "optimizer.safetensors", cut.optimiser.tensors_to_write());
  }
  Problem resumed;
  resumed.a = cut.a, resumed.b = cut.b;
  AdamW optimiser{AdamWSpec{}};
  optimiser.add("a", resumed.a, resumed.ga, 0.1);
  optimiser.add("b", resumed.b, resumed.gb, 0, 0.5);
  optimiser.restore(*checkpoint::open_safetensors(folder / "optimizer.safetensors"), 2);
  for (int step = 2; step < 4; ++step) {
    resumed.next_gradients(step);
    optimiser.step(pool, 1e-2, 1);
  }
  EXPECT_EQ(resumed.a, whole.a);
  EXPECT_EQ(resumed.b, whole.b);
  EXPECT_EQ(optimiser.steps(), 4);
}

TEST(AdamW, RefusesTheStateOfAnotherModel) {
  const TempFolder folder;
  Problem problem;
  checkpoint::write_safetensors(folder / "optimizer.safetensors", problem.optimiser.tensors_to_write());
  const auto source = checkpoint::open_safetensors(folder / "optimizer.safetensors");
  std::vector<float> values(Problem::kLong), gradient(Problem::kLong), other(8), other_gradient(8);
  const auto message = [&](auto&& add) -> std::string {
    AdamW optimiser{AdamWSpec{}};
    add(optimiser);
    try {
      optimiser.restore(*source, 1);
    } catch (const base::Error& error) {
      return error.message();
    }
    return "no error";
  };
  EXPECT_EQ(message([&](AdamW& o) { o.add("a", values, gradient, 0); }),
            "has 4 tensors, expected two for each of 1 parameters");
  EXPECT_EQ(message([&](AdamW& o) { o.add("a", values, gradient, 0), o.add("c", other, other_gradient, 0); }),
            "tensor first_moment.c is missing");
  EXPECT_EQ(message([&](AdamW& o) { o.add("a", values, gradient, 0), o.add("b", other, other_gradient, 0); }),
            "is f32 [7], expected f32 [8]");
}

}  // namespace
}  // namespace coterie::train
