#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "base/error.h"
#include "ops/matmul.h"
#include "unit/kernels/random_weights.h"

namespace coterie::ops {
namespace {

using tensor::DType;
using test::random_values;
using test::RandomWeight;

// Row n · H + h against a matmul of head h alone, to the bit, on every instruction set.
TEST(BatchedMatmul, IsAMatmulForEachHead) {
  constexpr int64_t kHeads = 3, kCols = 256, kRows = 40, kGap = 8;
  for (const kernels::Candidate& candidate : kernels::candidates()) {
    if (!candidate.usable) continue;
    for (const DType dtype : {DType::f32, DType::bf16, DType::q8_0, DType::q4_k})
      for (const Precision precision : {Precision::f32, Precision::fast})
        for (const int64_t tokens : {1, 5, 70}) {
          threads::Pool pool(2);
          tensor::Arena arena;
          Context context{pool, *candidate.table, arena, precision};
          std::vector<RandomWeight> heads;
          std::vector<Weight> weights;
          for (uint64_t h = 0; h < kHeads; ++h) heads.emplace_back(dtype, kRows, kCols, 10 + h);
          for (const RandomWeight& head : heads) weights.push_back(head.view());
          // Rows lie apart, as those of the heads of a projection do.
          const int64_t wide = kCols + kGap, out = kRows + kGap;
          const std::vector<float> x = random_values(tokens * kHeads * wide, 1);
          std::vector<float> y(static_cast<size_t>(tokens * kHeads * out), NAN);
          batched_matmul(context, {x.data(), tokens * kHeads, kCols, wide}, weights,
                         {y.data(), tokens * kHeads, kRows, out});
          for (int64_t h = 0; h < kHeads; ++h) {
            std::vector<float> alone(static_cast<size_t>(tokens * kRows));
            matmul(context, {x.data() + h * wide, tokens, kCols, wide * kHeads}, weights[static_cast<size_t>(h)],
                   nullptr, {alone.data(), tokens, kRows});
            for (int64_t n = 0; n < tokens; ++n) {
              const float* row = y.data() + (n * kHeads + h) * out;
              for (int64_t i = 0; i < kRows; ++i)
                ASSERT_EQ(std::bit_cast<uint32_t>(row[i]),
                          std::bit_cast<uint32_t>(alone[static_cast<size_t>(n * kRows + i)]))
                    << candidate.table->isa << " " << tensor::name(dtype) << " head " << h << " token " << n;
              for (int64_t i = kRows; i < out; ++i) ASSERT_TRUE(std::isnan(row[i])) << "written beside its row";
            }
          }
        }
  }
}

TEST(BatchedMatmul, RefusesRowsThatAreNotAMultipleOfTheHeads) {
  threads::Pool pool(1);
  tensor::Arena arena;
  Context context{pool, kernels::select(), arena, Precision::f32};
  const RandomWeight head(DType::f32, 4, 32, 1);
  const std::vector<Weight> weights = {head.view(), head.view()};
  std::vector<float> x(3 * 32), y(3 * 4);
  EXPECT_THROW(batched_matmul(context, {x.data(), 3, 32}, weights, {y.data(), 3, 4}), base::Error);
}

}  // namespace
}  // namespace coterie::ops
