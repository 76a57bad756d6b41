#include <gtest/gtest.h>

#include <bit>

#include "unit/ops/attention_harness.h"

// Laws of attention that hold to the bit, on each instruction set of this CPU.
namespace coterie::ops {
namespace {

using namespace test;

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i])) << what << ", value " << i;
  }
}

std::vector<Sequence> sequences() {
  std::vector<Sequence> list;
  uint64_t key = 100;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
    AttentionShape shape;
    shape.heads = 8, shape.layout = {2, 32, 32, dtype};
    list.emplace_back(shape, dtype == DType::f32 ? 600 : 300, key += 10);
    shape.heads = 6, shape.layout = {6, 20, 12, dtype}, shape.window = 100;
    list.emplace_back(shape, dtype == DType::f16 ? 530 : 290, key += 10, true);
    shape.heads = 10, shape.layout = {1, 40, 35, dtype}, shape.window = 0, shape.softcap = 10;
    list.emplace_back(shape, 270, key += 10);
  }
  return list;
}

std::string describe(const Sequence& s, const kernels::KernelTable& table) {
  return std::string(table.isa) + ", " + std::to_string(s.shape.heads) + " heads, " +
         std::string(tensor::name(s.shape.layout.dtype));
}

TEST(AttentionBits, DecodeEqualsPrefillEqualsAnyCut) {
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    for (const Sequence& s : sequences()) {
      const std::vector<float> whole = run_in_steps(engine.context, s, {s.length});
      const std::vector<int64_t> ones(static_cast<size_t>(s.length), 1);
      expect_same_bits(whole, run_in_steps(engine.context, s, ones), describe(s, *table) + " one by one");
      base::Rng rng(7);
      for (int trial = 0; trial < 3; ++trial) {
        std::vector<int64_t> steps;
        for (int64_t left = s.length; left > 0; left -= steps.back()) {
          steps.push_back(std::min<int64_t>(left, 1 + rng.below(trial % 2 == 0 ? 40 : 300)));
        }
        expect_same_bits(whole, run_in_steps(engine.context, s, steps), describe(s, *table) + " cut");
      }
    }
  }
}

TEST(AttentionBits, ThreadCountChangesNothing) {
  for (const kernels::KernelTable* table : usable_tables()) {
    for (const Sequence& s : sequences()) {
      const std::vector<int64_t> steps{s.length - 3, 1, 2};
      Engine one(*table, 1);
      const std::vector<float> expected = run_in_steps(one.context, s, steps);
      for (const int threads : {2, 3, 8}) {
        Engine many(*table, threads);
        expect_same_bits(expected, run_in_steps(many.context, s, steps),
                         describe(s, *table) + ", threads " + std::to_string(threads));
      }
    }
  }
}

TEST(AttentionBits, BatchOfSegmentsEqualsOneByOne) {
  AttentionShape shape;
  shape.heads = 8, shape.layout = {2, 32, 40, DType::f16};
  // Three sequences: a prefill, a decode step at depth and a few tokens in between, in that order of rows.
  const std::vector<Sequence> list{Sequence(shape, 70, 1), Sequence(shape, 401, 2), Sequence(shape, 290, 3)};
  const std::vector<int64_t> new_rows{70, 1, 33};
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    std::vector<float> q, k, v, expected;
    std::vector<Cache> caches;
    std::vector<Segment> segments;
    int64_t row = 0;
    for (size_t i = 0; i < list.size(); ++i) {
      const Sequence& s = list[i];
      const int64_t old = s.length - new_rows[i];
      const std::vector<float> alone = run_in_steps(engine.context, s, {s.length});
      expected.insert(expected.end(), alone.begin() + old * s.out_cols(), alone.end());
      caches.emplace_back(shape.layout, s.length);
      const Segment past{0, old, 0, caches.back().blocks};
      append_cache(engine.context, shape.layout, {s.k.data(), old, s.k_cols()}, {s.v.data(), old, s.v_cols()},
                   {&past, 1});
      q.insert(q.end(), s.q.begin() + old * s.q_cols(), s.q.end());
      k.insert(k.end(), s.k.begin() + old * s.k_cols(), s.k.end());
      v.insert(v.end(), s.v.begin() + old * s.v_cols(), s.v.end());
      segments.push_back({row, new_rows[i], old, {}});
      row += new_rows[i];
    }
    for (size_t i = 0; i < list.size(); ++i) segments[i].blocks = caches[i].blocks;
    std::vector<float> out(expected.size());
    const Sequence& s = list[0];
    append_cache(engine.context, shape.layout, {k.data(), row, s.k_cols()}, {v.data(), row, s.v_cols()}, segments);
    attention(engine.context, s.bound(), {q.data(), row, s.q_cols()}, segments, {out.data(), row, s.out_cols()});
    expect_same_bits(expected, out, std::string(table->isa));
  }
}

void expect_unseen_positions_do_not_matter(DType dtype) {
  AttentionShape shape;
  shape.heads = 6, shape.layout = {2, 24, 20, dtype}, shape.window = 70;
  const Sequence s(shape, 300, 11);
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table, 2);
    std::vector<std::vector<float>> results;
    // Positions the last 20 tokens do not see hold NaN, infinities, or another sequence's numbers; blocks wholly
    // before the window are not even there.
    for (const float filler : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3.0f}) {
      Cache cache(shape.layout, 304);
      Sequence dirty = s;
      for (int64_t n = 0; n < 280 - 69; ++n) {
        for (int64_t i = 0; i < s.k_cols(); ++i) dirty.k[static_cast<size_t>(n * s.k_cols() + i)] = filler;
        for (int64_t i = 0; i < s.v_cols(); ++i) dirty.v[static_cast<size_t>(n * s.v_cols() + i)] = filler;
      }
      const Segment all{0, 300, 0, cache.blocks};
      append_cache(engine.context, shape.layout, {dirty.k.data(), 300, s.k_cols()}, {dirty.v.data(), 300, s.v_cols()},
                   {&all, 1});
      for (int64_t b = 0; (b + 1) * kCacheBlock <= 280 - 69; ++b) cache.blocks[static_cast<size_t>(b)] = nullptr;
      std::vector<float> out(static_cast<size_t>(20 * s.out_cols()));
      const Segment last{0, 20, 280, cache.blocks};
      attention(engine.context, s.bound(), {s.q.data() + 280 * s.q_cols(), 20, s.q_cols()}, {&last, 1},
                {out.data(), 20, s.out_cols()});
      results.push_back(out);
    }
    for (const float value : results[0]) ASSERT_TRUE(std::isfinite(value)) << table->isa;
    expect_same_bits(results[0], results[1], std::string(table->isa));
    expect_same_bits(results[0], results[2], std::string(table->isa));
  }
}

TEST(AttentionBits, NothingOutsideTheVisiblePositionsMatters) {
  expect_unseen_positions_do_not_matter(DType::f32);
  expect_unseen_positions_do_not_matter(DType::q8_0);
}

// A value of a later token may be infinite (an f16 cache overflows at 65520): tokens before it do not see it, whether
// they are computed in one step with it or not.
TEST(AttentionBits, AnInfiniteValueReachesOnlyTheTokensThatSeeIt) {
  AttentionShape shape;
  shape.heads = 4, shape.layout = {1, 16, 16, DType::f16};
  Sequence s(shape, 64, 12);
  for (int64_t i = 0; i < s.v_cols(); ++i) s.v[static_cast<size_t>(40 * s.v_cols() + i)] = 1e6f;
  for (const kernels::KernelTable* table : usable_tables()) {
    Engine engine(*table);
    const std::vector<float> out = run_in_steps(engine.context, s, {64});
    for (int64_t n = 0; n < 64; ++n) {
      for (int64_t i = 0; i < s.out_cols(); ++i) {
        ASSERT_EQ(std::isfinite(out[static_cast<size_t>(n * s.out_cols() + i)]), n < 40)
            << table->isa << ", token " << n;
      }
    }
  }
}

// Codes have no infinity: a group of 32 dimensions with one, or with a NaN, is NaN as a whole, and only there.
TEST(AttentionBits, WhatIsNoNumberStaysSoInACacheOfCodes) {
  AttentionShape shape;
  shape.heads = 2, shape.layout = {1, 16, 64, DType::q8_0};
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Sequence s(shape, 50, 13);
    s.v[static_cast<size_t>(40 * s.v_cols() + 3)] = bad;
    for (const kernels::KernelTable* table : usable_tables()) {
      Engine engine(*table);
      const std::vector<float> out = run_in_steps(engine.context, s, {50});
      for (int64_t n = 0; n < 50; ++n)
        for (int64_t i = 0; i < s.out_cols(); ++i)
          ASSERT_EQ(std::isnan(out[static_cast<size_t>(n * s.out_cols() + i)]), n >= 40 && i % 64 < 32)
              << table->isa << ", token " << n << ", dimension " << i;
    }
  }
}

}  // namespace
}  // namespace coterie::ops
