#include "gradient_harness.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "support/expect_error.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

constexpr int64_t kRows = 3, kWidth = 4;

// A block as layers write it: scratch in a scope, taken again and overwritten, the residual in place.
void block(Check& check, Context& context, size_t norm, size_t up, size_t down, Matrix x) {
  const tensor::ArenaScope scope(context.arena);
  const Matrix h = context.arena.matrix(kRows, kWidth), y = context.arena.matrix(kRows, kWidth);
  rms_norm(context, x, check.values(norm), 1e-3f, h);
  matmul(context, h, check.weight(up, kWidth, kWidth), nullptr, y);
  gate(context, Activation::silu, y, h);
  matmul(context, y, check.weight(down, kWidth, kWidth), nullptr, h);
  add(context, h, x, 0.5f);
}

std::vector<float> gradients(bool recompute) {
  Check check;
  const size_t in = check.leaf(kRows * kWidth), norm = check.leaf(kWidth, 0.3, 1);
  const size_t up = check.leaf(kWidth * kWidth), down = check.leaf(kWidth * kWidth);
  const auto function = [&](Context& context) {
    const Matrix x = check.activation(context, in, kWidth);
    for (int i = 0; i < 3; ++i) {
      const auto run = [&check, norm, up, down, x](Context& with) { block(check, with, norm, up, down, x); };
      if (recompute && context.tape)
        context.tape->recompute(context, {x}, run);
      else
        run(context);
    }
    return x;
  };
  if (!recompute) check.run(function);
  check.go_back(function);
  std::vector<float> all;
  for (const size_t leaf : {in, norm, up, down})
    all.insert(all.end(), check.gradient(leaf).begin(), check.gradient(leaf).end());
  return all;
}

TEST(Tape, GoesBackThroughScratchThatIsTakenAgainAndOverwritten) { gradients(false); }

TEST(Tape, RecomputingGivesTheSameBits) { EXPECT_EQ(gradients(true), gradients(false)); }

TEST(Tape, CanRecordAgainAfterGoingBackAndAfterGivingUp) {
  Check check;
  const size_t in = check.leaf(kRows * kWidth);
  std::vector<float> gradient(kRows * kWidth);
  ParameterGradients parameters;
  threads::Pool pool(1);
  tensor::Arena arena;
  Context context{pool, kernels::select(), arena, Precision::f32};
  Tape tape(arena, parameters);
  for (const bool give_up : {false, true, false}) {
    arena.reset();
    context.tape = &tape;
    const Matrix x = check.activation(context, in, kWidth);
    scale(context, x, 3);
    tape.record({}, [x, give_up](Reverse& back) {
      back.gradient(x).data[0] += 1;
      if (give_up) throw std::runtime_error("enough");
    });
    context.tape = nullptr;
    if (give_up)
      EXPECT_THROW(tape.backward(context), std::runtime_error);
    else
      tape.backward(context);
  }
  // Twice 3: the pass that was given up left nothing behind.
  EXPECT_EQ(check.gradient(in)[0], 6.0f);
}

TEST(Tape, OpsWithoutAWayBackRefuse) {
  threads::Pool pool(1);
  tensor::Arena arena;
  const ParameterGradients none;
  Tape tape(arena, none);
  Context context{pool, kernels::select(), arena, Precision::f32, &tape};
  const Matrix x = arena.matrix(2, 2);
  expect_error(base::ErrorKind::unsupported, {"log_softmax", "no backward"}, [&] { log_softmax(context, x); });
}

}  // namespace
}  // namespace coterie::ops
