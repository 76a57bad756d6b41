#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "tensor/buffer.h"
#include "unit/kernels/random_weights.h"

// Repacked rows: the same bytes, the same bits of every product.
namespace coterie::kernels {
namespace {

using tensor::DType;
using test::RandomWeight;

std::vector<const KernelTable*> tables_that_repack() {
  std::vector<const KernelTable*> tables;
  for (const Candidate& candidate : candidates())
    if (candidate.usable && candidate.table->matmul.repack) tables.push_back(candidate.table);
  return tables;
}

tensor::Buffer<std::byte> repacked(const MatmulKernels& kernels, const tensor::Weight& w, RepackedOrder order) {
  const int64_t row_bytes = tensor::row_bytes(w.dtype, w.cols);
  tensor::Buffer<std::byte> out(w.rows * row_bytes);
  std::memset(out.data(), 0xee, static_cast<size_t>(out.size()));
  for (int64_t r = 0; r < w.rows; r += kernels.panel_rows)
    kernels.repack(w.row(r), w.row_stride, row_bytes, order, out.data() + r * row_bytes);
  return out;
}

int64_t values_of_a_block(DType dtype, RepackedOrder order) {
  const tensor::DTypeInfo& info = tensor::info(dtype);
  return order.block_bytes / info.block_bytes * info.block_values;
}

/// The bits of a product [tokens, rows] of the fast kernels.
std::vector<uint32_t> product(const MatmulKernels& kernels, const tensor::Weight& w, const std::byte* weights,
                              bool is_repacked, int64_t tokens, const std::vector<float>& values,
                              ReadAhead read_ahead = {}, std::span<const std::byte> next = {}) {
  const MatmulKernel& kernel = kernels.fast[static_cast<size_t>(w.dtype)];
  const int64_t in_blocks32 = w.cols / 32 * static_cast<int64_t>(sizeof(ActivationBlock32)),
                in_blocks256 = w.cols / 256 * static_cast<int64_t>(sizeof(ActivationBlock256));
  const int64_t row_bytes = kernel.form == ActivationForm::floats     ? w.cols * 4
                            : kernel.form == ActivationForm::blocks32 ? in_blocks32
                                                                      : in_blocks256;
  tensor::Buffer<std::byte> x(tokens * row_bytes), scratch(kernel.scratch_bytes(w.dtype, w.cols));
  std::vector<const std::byte*> rows;
  for (int64_t t = 0; t < tokens; ++t) {
    std::byte* row = x.data() + t * row_bytes;
    const float* const from = values.data() + t * w.cols;
    switch (kernel.form) {
      case ActivationForm::floats: std::memcpy(row, from, static_cast<size_t>(row_bytes)); break;
      case ActivationForm::blocks32: kernels.quantise32(from, w.cols, reinterpret_cast<ActivationBlock32*>(row)); break;
      case ActivationForm::blocks256:
        kernels.quantise256(from, w.cols, reinterpret_cast<ActivationBlock256*>(row));
        break;
    }
    rows.push_back(row);
  }
  std::vector<float> y(static_cast<size_t>(tokens * w.rows));
  MatmulTask task;
  task.weights = weights, task.dtype = w.dtype, task.repacked = is_repacked;
  task.row_stride = tensor::row_bytes(w.dtype, w.cols), task.rows = w.rows, task.cols = w.cols;
  task.x = rows.data(), task.tokens = tokens, task.y = y.data(), task.y_stride = w.rows;
  task.scratch = scratch.data();
  task.read_ahead = read_ahead, task.next = next.data(), task.next_bytes = std::ssize(next);
  kernel.run(task);
  std::vector<uint32_t> bits;
  for (const float value : y) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

class RepackedTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Formats, RepackedTest, testing::ValuesIn(test::weight_dtypes()),
                         [](const auto& each) { return std::string(tensor::name(each.param)); });

TEST_P(RepackedTest, EveryByteIsWhereTheKernelsLookForIt) {
  for (const KernelTable* table : tables_that_repack()) {
    const MatmulKernels& kernels = table->matmul;
    const RepackedOrder order = kernels.fast[static_cast<size_t>(GetParam())].repacked;
    if (order.count == 0) continue;
    const int64_t rows = kernels.panel_rows, blocks = 3, block_bytes = order.block_bytes;
    const RandomWeight weight(GetParam(), rows, blocks * values_of_a_block(GetParam(), order), 3, 5);
    const tensor::Weight& w = weight;
    const tensor::Buffer<std::byte> out = repacked(kernels, w, order);
    for (int64_t b = 0; b < blocks; ++b) {
      const std::byte* panel = out.data() + b * block_bytes * rows;
      for (int64_t r = 0; r < rows; ++r) {
        const std::byte* block = w.row(r) + b * block_bytes;
        std::vector<int> seen(static_cast<size_t>(block_bytes));
        int64_t before = 0;
        for (const RepackedRun run : std::span(order.runs, static_cast<size_t>(order.count))) {
          const int64_t together = std::min<int64_t>(run.bytes, 4);
          for (int64_t at = run.at; at < run.at + run.bytes; at += together, before += together) {
            ASSERT_EQ(std::memcmp(panel + before * rows + r * together, block + at, static_cast<size_t>(together)), 0)
                << table->isa << " row " << r << " byte " << at;
            for (int64_t i = at; i < at + together; ++i) ++seen[static_cast<size_t>(i)];
          }
        }
        ASSERT_EQ(seen, std::vector<int>(static_cast<size_t>(block_bytes), 1)) << table->isa;
      }
    }
  }
}

TEST_P(RepackedTest, ProductsHaveTheSameBits) {
  for (const KernelTable* table : tables_that_repack()) {
    const MatmulKernels& kernels = table->matmul;
    const MatmulKernel& kernel = kernels.fast[static_cast<size_t>(GetParam())];
    if (kernel.repacked.count == 0) continue;
    const int64_t block = values_of_a_block(GetParam(), kernel.repacked);
    for (const int64_t cols :
         {block, 3 * block, 71 * block, 2304 / block * block}) {  // 71: of floats, a chunk and a part
      const RandomWeight weight(GetParam(), 3 * kernels.panel_rows, cols, 5);
      const tensor::Weight& w = weight;
      const tensor::Buffer<std::byte> in_panels = repacked(kernels, w, kernel.repacked);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 7, 8, 9, 33}) {
        const std::vector<float> x = test::random_values(tokens * cols, 6);
        ASSERT_EQ(product(kernels, w, in_panels.data(), true, tokens, x), product(kernels, w, w.data, false, tokens, x))
            << table->isa << ", " << tokens << " tokens, " << cols << " columns";
      }
    }
  }
}

TEST_P(RepackedTest, HowTheyAreWalkedChangesNoBit) {
  for (const KernelTable* table : tables_that_repack()) {
    const MatmulKernels& kernels = table->matmul;
    const MatmulKernel& kernel = kernels.fast[static_cast<size_t>(GetParam())];
    if (kernel.repacked.count == 0) continue;
    // Of floats more than a chunk, the last in part.
    const int64_t cols = (tensor::is_block(GetParam()) ? 3 : 71) * values_of_a_block(GetParam(), kernel.repacked);
    for (const int64_t panels : {1, 2, 7, 13}) {  // 13: three for each of four streams, and one
      const RandomWeight weight(GetParam(), panels * kernels.panel_rows, cols, 7);
      const tensor::Weight& w = weight;
      const tensor::Buffer<std::byte> in_panels = repacked(kernels, w, kernel.repacked);
      const std::span<const std::byte> next(in_panels.data(), static_cast<size_t>(in_panels.size()));
      for (const int64_t tokens : {1, 2, 3, 4, 6, 8}) {
        const std::vector<float> x = test::random_values(tokens * cols, 8);
        const auto expected = product(kernels, w, w.data, false, tokens, x);
        for (const ReadAhead walk :
             {ReadAhead{1, 0}, ReadAhead{1, 64}, ReadAhead{2, 0}, ReadAhead{4, 2304}, ReadAhead{4, 1 << 16}})
          for (const bool more : {false, true})
            ASSERT_EQ(product(kernels, w, in_panels.data(), true, tokens, x, walk,
                              more ? next : std::span<const std::byte>()),
                      expected)
                << table->isa << ", " << panels << " panels, " << tokens << " tokens, " << walk.streams << " streams";
      }
    }
  }
}

// More rows than are packed together.
TEST(Repacked, ManyRowsOfFloatsHaveTheSameBits) {
  for (const KernelTable* table : tables_that_repack())
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const MatmulKernels& kernels = table->matmul;
      const int64_t rows = 256 + 3 * kernels.panel_rows, cols = 264, tokens = 9;
      const RandomWeight weight(dtype, rows, cols, 5);
      const tensor::Weight& w = weight;
      const MatmulKernel& kernel = kernels.fast[static_cast<size_t>(dtype)];
      const tensor::Buffer<std::byte> in_panels = repacked(kernels, w, kernel.repacked);
      const std::vector<float> x = test::random_values(tokens * cols, 6);
      const auto expected = product(by_name("scalar").matmul, w, w.data, false, tokens, x);
      EXPECT_EQ(product(kernels, w, w.data, false, tokens, x), expected) << table->isa << tensor::name(dtype);
      EXPECT_EQ(product(kernels, w, in_panels.data(), true, tokens, x), expected) << table->isa << tensor::name(dtype);
    }
}

// Sums of 16 bits have no room to spare: all codes and all x as large as they come, in every combination of signs that
// adds up. In the file's order and repacked, against the scalar integers.
void expect_large_products(const KernelTable& table, DType dtype, int fill) {
  const MatmulKernels& kernels = table.matmul;
  const int64_t cols = 2 * tensor::info(dtype).block_values;
  const RandomWeight weight(dtype, kernels.panel_rows, cols, 5, 0, fill);
  const tensor::Weight& w = weight;
  const tensor::Buffer<std::byte> in_panels = repacked(kernels, w, kernels.fast[static_cast<size_t>(dtype)].repacked);
  for (const int64_t tokens : {1, 3, 33}) {
    std::vector<float> x(static_cast<size_t>(tokens * cols));
    for (size_t i = 0; i < x.size(); ++i) {
      const int64_t token = static_cast<int64_t>(i) / cols % 3;
      x[i] = token == 0 || (token == 2 && i / 2 % 2 == 0) ? 127.0f : -127.0f;
    }
    const auto expected = product(by_name("scalar").matmul, w, w.data, false, tokens, x);
    EXPECT_EQ(product(kernels, w, w.data, false, tokens, x), expected) << "in the file's order";
    EXPECT_EQ(product(kernels, w, in_panels.data(), true, tokens, x), expected) << "repacked";
  }
}

TEST(Repacked, TheLargestProductsFit) {
  for (const KernelTable* table : tables_that_repack())
    for (const DType dtype : test::weight_dtypes())
      for (const int fill : {0x00, 0xff, 0x7f, 0x80, 0xf0, 0x0f}) {
        if (!tensor::is_block(dtype) || quant::is_scaled(dtype)) continue;  // those are multiplied as floats
        SCOPED_TRACE(fmt::format("{} {} bytes of {:#x}", table->isa, tensor::name(dtype), fill));
        expect_large_products(*table, dtype, fill);
      }
}

TEST(Repacked, AreReadInEveryFormatOfDecoding) {
  for (const KernelTable* table : tables_that_repack())
    for (const DType dtype :
         {DType::q2_k,  DType::q3_k,  DType::q4_k,    DType::q5_k,   DType::q6_k,   DType::iq4_xs,  DType::q4_0,
          DType::q4_1,  DType::q5_0,  DType::q5_1,    DType::q8_0,   DType::iq4_nl, DType::mxfp4,   DType::bf16,
          DType::f16,   DType::f32,   DType::iq2_xxs, DType::iq2_xs, DType::iq2_s,  DType::iq3_xxs, DType::iq3_s,
          DType::iq1_s, DType::iq1_m, DType::tq1_0,   DType::tq2_0})
      EXPECT_GT(table->matmul.fast[static_cast<size_t>(dtype)].repacked.count, 0) << table->isa << tensor::name(dtype);
}

}  // namespace
}  // namespace coterie::kernels
