#include "attention_harness.h"
#include "gradient_harness.h"

namespace coterie::ops {
namespace {

using gradient::Check;
using tensor::Matrix;

struct Case {
  int64_t heads, kv_heads, key_dim, value_dim, window;
  float softcap;
  bool sinks;
  std::vector<int64_t> lengths;  // of the sequences of the batch
  std::vector<int64_t> pieces;   // where the first sequence is cut in steps of their own; empty: one step
};

struct Leaves {
  size_t q, k, v, sinks;
};

Leaves make_leaves(Check& check, const Case& c) {
  int64_t rows = 0;
  for (const int64_t length : c.lengths) rows += length;
  return {check.leaf(rows * c.heads * c.key_dim), check.leaf(rows * c.kv_heads * c.key_dim),
          check.leaf(rows * c.kv_heads * c.value_dim), check.leaf(c.heads)};
}

/// The caches must live until the backward pass is done.
using Caches = std::vector<std::unique_ptr<test::Cache>>;

Matrix forward(Check& check, Context& context, const Case& c, const Leaves& leaves, Caches& caches) {
  AttentionShape shape;
  shape.heads = c.heads, shape.layout = {c.kv_heads, c.key_dim, c.value_dim, tensor::DType::f32};
  shape.scale = 0.6f, shape.window = c.window, shape.softcap = c.softcap;
  if (c.sinks) shape.sinks = check.values(leaves.sinks);
  const Matrix q = check.activation(context, leaves.q, c.heads * c.key_dim);
  const Matrix k = check.activation(context, leaves.k, c.kv_heads * c.key_dim);
  const Matrix v = check.activation(context, leaves.v, c.kv_heads * c.value_dim);
  const Matrix out = context.arena.matrix(q.rows, c.heads * c.value_dim);
  caches.clear();
  std::vector<std::vector<Segment>> steps(c.pieces.size() + 1);
  int64_t row = 0;
  for (const int64_t length : c.lengths) {
    caches.push_back(std::make_unique<test::Cache>(shape.layout, length));
    const std::span<std::byte* const> blocks = caches.back()->blocks;
    int64_t begin = 0;
    for (size_t i = 0; i < c.pieces.size() && row == 0; ++i) {
      steps[i].push_back({begin, c.pieces[i] - begin, begin, blocks});
      begin = c.pieces[i];
    }
    steps.back().push_back({row + begin, length - begin, begin, blocks});
    row += length;
  }
  for (const std::vector<Segment>& step : steps) {
    append_cache(context, shape.layout, k, v, step);
    attention(context, shape, q, step, out);
  }
  return out;
}

class AttentionGradient : public testing::TestWithParam<Case> {};

TEST_P(AttentionGradient, EqualsFiniteDifferences) {
  Check check;
  const Leaves leaves = make_leaves(check, GetParam());
  Caches caches;
  check.run([&](Context& context) { return forward(check, context, GetParam(), leaves, caches); });
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionGradient,
                         testing::Values(Case{1, 1, 4, 4, 0, 0, false, {5}, {}},
                                         Case{4, 2, 3, 5, 0, 0, false, {3, 6}, {}},  // GQA, values wider than keys
                                         Case{2, 1, 4, 3, 3, 0, false, {7, 2}, {}},  // a window
                                         Case{2, 2, 4, 4, 0, 1.5f, false, {6}, {}},  // a cap
                                         Case{2, 1, 4, 4, 0, 0, true, {5, 1}, {}},   // sinks
                                         Case{2, 1, 3, 4, 4, 2, true, {8}, {}}),     // all at once
                         [](const auto& of) { return std::to_string(of.index); });

TEST(AttentionGradientOfPieces, IsThatOfTheWhole) {
  const Case whole{2, 1, 4, 4, 0, 0, true, {37}, {}};
  Case cut = whole;
  cut.pieces = {5, 21};
  const auto gradients = [](const Case& c) {
    Check check;
    const Leaves leaves = make_leaves(check, c);
    Caches caches;
    // A cut sequence is one whose backward pass must go through the cache, so both steps write one `out`.
    check.go_back([&](Context& context) { return forward(check, context, c, leaves, caches); });
    std::vector<float> all;
    for (const size_t leaf : {leaves.q, leaves.k, leaves.v, leaves.sinks})
      all.insert(all.end(), check.gradient(leaf).begin(), check.gradient(leaf).end());
    return all;
  };
  const std::vector<float> expected = gradients(whole), found = gradients(cut);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 2e-5) << i;
}

TEST(AttentionGradientOfTiles, HasTheSameBitsWithAnyThreads) {
  gradient::expect_same_bits([](int threads) {
    const Case c{4, 2, 8, 8, 100, 0, true, {150, 70}, {}};
    Check check(threads);
    const Leaves leaves = make_leaves(check, c);
    Caches caches;
    check.go_back([&](Context& context) { return forward(check, context, c, leaves, caches); });
    return std::vector{check.gradient(leaves.q), check.gradient(leaves.k), check.gradient(leaves.v),
                       check.gradient(leaves.sinks)};
  });
}

}  // namespace
}  // namespace coterie::ops
