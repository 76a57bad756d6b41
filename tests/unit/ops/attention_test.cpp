#include "ops/attention.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/ops/attention_harness.h"

// Attention against its definition in double precision, on each instruction set of this CPU.
namespace coterie::ops {
namespace {

using namespace test;

/// The worst error over the tolerance, and the root mean square of the errors over that of the values.
struct Errors {
  double worst = 0, relative = 0;
};

Errors compare(const std::vector<float>& out, const Expected& expected) {
  EXPECT_EQ(out.size(), expected.value.size());
  Errors errors;
  double error_squares = 0, value_squares = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double error = std::fabs(static_cast<double>(out[i]) - expected.value[i]);
    errors.worst = std::isnan(error) ? INFINITY : std::max(errors.worst, error / expected.tolerance[i]);
    error_squares += error * error, value_squares += expected.value[i] * expected.value[i];
  }
  errors.relative = std::sqrt(error_squares / value_squares);
  return errors;
}

void expect_close(const Sequence& s, const std::string& what, double relative = 1e-6) {
  const Expected expected = reference_attention(s);
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    const Errors errors = compare(run_in_steps(engine.context, s, {s.length}), expected);
    EXPECT_LE(errors.worst, 1) << table->isa << ", " << what;
    EXPECT_LE(errors.relative, relative) << table->isa << ", " << what;
  }
}

AttentionShape shape_of(int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, DType dtype) {
  AttentionShape shape;
  shape.heads = heads;
  shape.layout = {kv_heads, key_dim, value_dim, dtype};
  return shape;
}

TEST(Attention, EqualsItsDefinitionForEveryGroupingAndWidth) {
  struct Case {
    int64_t heads, kv_heads, key_dim, value_dim;
  };
  uint64_t key = 1;
  for (const Case& c : {Case{4, 4, 32, 32}, Case{8, 2, 64, 64}, Case{6, 1, 80, 80}, Case{9, 3, 12, 12},
                        Case{7, 1, 16, 48}, Case{2, 1, 128, 128}, Case{4, 2, 40, 24}, Case{3, 3, 1, 1},
                        Case{70, 1, 9, 7}, Case{5, 1, 33, 65}, Case{8, 1, 17, 31}, Case{10, 2, 24, 8}}) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
      const Sequence s(shape_of(c.heads, c.kv_heads, c.key_dim, c.value_dim, dtype), 37, key += 10);
      expect_close(s, std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " heads of " +
                          std::to_string(c.key_dim) + " and " + std::to_string(c.value_dim) + ", " +
                          std::string(tensor::name(dtype)));
    }
  }
}

TEST(Attention, EqualsItsDefinitionAcrossBlocksAndChunks) {
  for (const int64_t length : {1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 300, 529}) {
    expect_close(Sequence(shape_of(4, 2, 20, 20, DType::f16), length, 77), "length " + std::to_string(length));
  }
}

TEST(Attention, SlidingWindowSeesItselfAndTheWindowBefore) {
  for (const int64_t window : {1, 2, 15, 16, 17, 64, 255, 256, 300, 1000}) {
    AttentionShape shape = shape_of(4, 2, 12, 20, DType::f32);
    shape.window = window;
    expect_close(Sequence(shape, 600, 5), "window " + std::to_string(window));
  }
}

TEST(Attention, SoftcapBendsScores) {
  for (const float softcap : {50.0f, 5.0f, 0.5f}) {
    AttentionShape shape = shape_of(4, 2, 32, 32, DType::f32);
    shape.softcap = softcap;
    expect_close(Sequence(shape, 290, 9), "softcap " + std::to_string(softcap));
  }
}

TEST(Attention, SinksTakePartInTheSoftmaxAndAddNothing) {
  expect_close(Sequence(shape_of(8, 2, 32, 32, DType::bf16), 300, 21, true), "sinks");
  AttentionShape shape = shape_of(8, 2, 32, 32, DType::f32);
  shape.window = 20;
  expect_close(Sequence(shape, 100, 22, true), "sinks with a window");
  Sequence overwhelmed(shape, 40, 23, true);
  for (float& sink : overwhelmed.sinks) sink = 200;  // every other weight underflows
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table);
    for (const float value : run_in_steps(engine.context, overwhelmed, {40})) ASSERT_EQ(value, 0) << table->isa;
  }
}

TEST(Attention, LargeScoresNeitherOverflowNorVanish) {
  AttentionShape shape = shape_of(2, 1, 16, 16, DType::f32);
  shape.scale = 40;                                              // differences of thousands between scores
  expect_close(Sequence(shape, 300, 31), "large scores", 1e-5);  // a score of 1000 is known to 6e-5
}

TEST(Attention, ScaleIsTakenAsGiven) {
  AttentionShape shape = shape_of(2, 1, 16, 16, DType::f32);
  shape.scale = 0.0625f;
  expect_close(Sequence(shape, 50, 32), "scale");
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  Engine engine(*usable_tables().back());
  const Sequence s(shape_of(4, 2, 8, 8, DType::f32), 20, 1);
  Cache cache(s.shape.layout, 20);
  std::vector<float> out(static_cast<size_t>(20 * s.out_cols()));
  const tensor::ConstMatrix q(s.q.data(), 20, s.q_cols());
  const auto run = [&](AttentionShape shape, tensor::ConstMatrix queries, Segment segment) {
    attention(engine.context, shape, queries, {&segment, 1}, {out.data(), 20, s.out_cols()});
  };
  const Segment good{0, 20, 0, cache.blocks};
  EXPECT_NO_THROW({
    append_cache(engine.context, s.shape.layout, {s.k.data(), 20, s.k_cols()}, {s.v.data(), 20, s.v_cols()},
                 {&good, 1});
    run(s.shape, q, good);
  });
  AttentionShape three = s.shape;
  three.heads = 3;
  EXPECT_THROW(run(three, q, good), base::Error);
  AttentionShape integers = s.shape;
  integers.layout.dtype = DType::i8;
  EXPECT_THROW(run(integers, q, good), base::Error);
  EXPECT_THROW(run(s.shape, {s.q.data(), 20, s.q_cols() - 1, s.q_cols()}, good), base::Error);
  EXPECT_THROW(run(s.shape, q, {0, 20, 13, cache.blocks}), base::Error);  // position 32 is in no block
  EXPECT_THROW(run(s.shape, q, {1, 20, 0, cache.blocks}), base::Error);   // row 20 is not in the batch
}

}  // namespace
}  // namespace coterie::ops
