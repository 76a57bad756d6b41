#include <gtest/gtest.h>

#include "tensor/buffer.h"
#include "tensor/half.h"
#include "unit/kernels/vector_harness.h"

// Products of bf16 against sums in double of the operands rounded to bf16: every product is exact in f32, what is left
// is the rounding of the sums.
namespace coterie::kernels {
namespace {

using namespace test;

/// One for each way of multiplying: by AVX-512, by the tiles of AMX.
std::vector<const KernelTable*> tables_with_bf16() {
  std::vector<const KernelTable*> found;
  for (const KernelTable* table : usable_tables())
    if (table->gemm_bf16.run && (found.empty() || found.back()->gemm_bf16.run != table->gemm_bf16.run))
      found.push_back(table);
  return found;
}

float rounded(float x) { return tensor::bf16_to_f32(tensor::f32_to_bf16(x)); }

struct Shape {
  int64_t rows, cols, depth;
};
// Around tiles of 12 x 32 and 16 x 16, panels of 192 and 256, passes of 120 and 128 rows and 256 of depth; odd depths.
const Shape kShapes[] = {{1, 1, 1},     {12, 32, 2},     {13, 33, 3},    {5, 31, 17},   {17, 16, 32},
                         {24, 64, 31},  {25, 65, 33},    {33, 17, 66},   {119, 40, 64}, {7, 48, 600},
                         {32, 257, 48}, {121, 193, 255}, {130, 200, 257}};

TEST(Bf16, GemmIsTheProductOfRoundedOperands) {
  if (tables_with_bf16().empty()) GTEST_SKIP() << "this CPU has no AVX512_BF16";
  base::Rng rng(3);
  for (const KernelTable* table : tables_with_bf16())
    for (const Shape& s : kShapes)
      for (const bool by_depth : {false, true})
        for (const bool indexed : {false, true})
          for (const bool accumulate : {false, true}) {
            const int64_t a_rows = by_depth ? s.depth : s.rows, a_cols = by_depth ? s.rows : s.depth;
            Row<float> a = normal_row(2 * a_rows * a_cols, rng.bits() % 1000);
            Row<float> b = normal_row(2 * s.depth * s.cols, rng.bits() % 1000);
            Row<float> c = normal_row(s.rows * s.cols, 5);
            const Row<float> before = normal_row(s.rows * s.cols, 5);
            std::vector<int32_t> a_index, b_index;
            for (int64_t i = 0; i < a_rows; ++i) a_index.push_back(static_cast<int32_t>(2 * a_rows - 1 - 2 * i));
            for (int64_t k = 0; k < s.depth; ++k) b_index.push_back(static_cast<int32_t>((7 * k) % (2 * s.depth)));
            tensor::Buffer<float> scratch(table->gemm_bf16.scratch_floats);
            GemmTask task;
            task.rows = s.rows, task.cols = s.cols, task.depth = s.depth;
            task.a = a.data(), task.a_stride = a_cols, task.a_by_depth = by_depth;
            task.b = b.data(), task.b_stride = s.cols, task.c = c.data(), task.c_stride = s.cols;
            if (indexed) task.a_index = a_index.data(), task.b_index = b_index.data();
            task.accumulate = accumulate, task.scratch = scratch.data();
            table->gemm_bf16.run(task);
            for (int64_t i = 0; i < s.rows; ++i)
              for (int64_t j = 0; j < s.cols; ++j) {
                double sum = accumulate ? before[i * s.cols + j] : 0, size = std::fabs(sum);
                for (int64_t k = 0; k < s.depth; ++k) {
                  const int64_t r = by_depth ? k : i, column = by_depth ? i : k;
                  const float x = a[(indexed ? a_index[static_cast<size_t>(r)] : r) * a_cols + column];
                  const float y = b[(indexed ? b_index[static_cast<size_t>(k)] : k) * s.cols + j];
                  const double product = static_cast<double>(rounded(x)) * rounded(y);
                  sum += product, size += std::fabs(product);
                }
                ASSERT_NEAR(c[i * s.cols + j], sum, (static_cast<double>(s.depth) + 2) * kUnit * size)
                    << table->isa << ", " << s.rows << " x " << s.cols << " x " << s.depth << ": " << i << ", " << j;
              }
            ASSERT_TRUE(a.intact() && b.intact() && c.intact());
          }
}

TEST(Bf16, MatmulOnWeightsHasTheBitsOfGemm) {
  if (tables_with_bf16().empty()) GTEST_SKIP() << "this CPU has no AVX512_BF16";
  for (const KernelTable* table : tables_with_bf16())
    for (const Shape& s : kShapes) {
      Row<float> x = normal_row(s.rows * s.depth, 11), w = normal_row(s.cols * s.depth, 12);
      Row<float> repacked(s.depth * s.cols, 1), y(s.rows * s.cols, 2), expected(s.rows * s.cols, 3);
      std::vector<const std::byte*> rows;
      for (int64_t i = 0; i < s.rows; ++i) rows.push_back(reinterpret_cast<const std::byte*>(x.data() + i * s.depth));
      for (int64_t j = 0; j < s.cols; ++j)
        for (int64_t k = 0; k < s.depth; ++k) repacked[k * s.cols + j] = w[j * s.depth + k];
      tensor::Buffer<float> scratch(table->gemm_bf16.scratch_floats);
      MatmulTask matmul;
      matmul.weights = reinterpret_cast<const std::byte*>(w.data()), matmul.row_stride = s.depth * 4;
      matmul.rows = s.cols, matmul.cols = s.depth, matmul.x = rows.data(), matmul.tokens = s.rows;
      matmul.y = y.data(), matmul.y_stride = s.cols, matmul.scratch = reinterpret_cast<std::byte*>(scratch.data());
      table->matmul.bf16.run(matmul);
      GemmTask gemm;
      gemm.rows = s.rows, gemm.cols = s.cols, gemm.depth = s.depth, gemm.a = x.data(), gemm.a_stride = s.depth;
      gemm.b = repacked.data(), gemm.b_stride = s.cols, gemm.c = expected.data(), gemm.c_stride = s.cols;
      gemm.accumulate = false, gemm.scratch = scratch.data();
      table->gemm_bf16.run(gemm);
      ASSERT_EQ(0, std::memcmp(y.data(), expected.data(), static_cast<size_t>(s.rows * s.cols) * sizeof(float)))
          << table->isa << ", " << s.rows << " x " << s.cols << " x " << s.depth;
      ASSERT_TRUE(x.intact() && w.intact() && y.intact() && expected.intact());
    }
}

}  // namespace
}  // namespace coterie::kernels
