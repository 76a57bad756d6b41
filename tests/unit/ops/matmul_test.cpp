#include "ops/matmul.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "kernels/matmul/integer_blocks.h"
#include "quant/codec.h"
#include "quant/rows.h"
#include "unit/kernels/random_weights.h"

// Everything here runs on each instruction set of this CPU, in both precisions, for every weight format. Against
// double precision the tolerance is (operations in a row) x 2^-24 x (sum of the terms' magnitudes); between
// instruction sets, batch sizes, cuts and thread counts it is zero.
namespace coterie::ops {
namespace {

using tensor::DType;
using test::random_values;
using test::RandomWeight;

struct Engine {
  threads::Pool pool;
  tensor::Arena arena;
  Context context;
  explicit Engine(const kernels::KernelTable& table, Precision precision = Precision::fast, int threads = 1)
      : pool(threads), context{pool, table, arena, precision} {}
};

std::vector<const kernels::KernelTable*> usable_tables() {
  std::vector<const kernels::KernelTable*> tables;
  for (const kernels::Candidate& candidate : kernels::candidates())
    if (candidate.usable) tables.push_back(candidate.table);
  return tables;
}

std::vector<float> multiply(Context& context, std::span<const float> x, const Weight& w, const float* bias = nullptr) {
  const int64_t tokens = w.cols == 0 ? 0 : std::ssize(x) / w.cols;
  std::vector<float> y(static_cast<size_t>(tokens * w.rows), std::numeric_limits<float>::quiet_NaN());
  matmul(context, ConstMatrix(x.data(), tokens, w.cols), w, bias, Matrix(y.data(), tokens, w.rows));
  return y;
}

void expect_same_bits(std::span<const float> a, std::span<const float> b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << what << " at " << i << ": " << a[i] << " and " << b[i];
}

struct Reference {
  double value, tolerance;
};

constexpr double kUnit = 0x1p-24;

Reference exact_reference(const Weight& w, int64_t row, const float* x) {
  std::vector<float> decoded(static_cast<size_t>(w.cols));
  quant::decode(w.dtype, w.row(row), decoded.data(), w.cols);
  double sum = 0, magnitude = 0;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const double term = double{decoded[i]} * double{x[i]};
    sum += term, magnitude += std::abs(term);
  }
  const double steps = static_cast<double>(std::min<int64_t>(w.cols, 256) + w.cols / 256 + 1);
  return {sum, steps * kUnit * magnitude + 1e-37};
}

template <typename Block, typename Integers, int kValues>
Reference fast_blocks(const Weight& w, int64_t row, const float* x) {
  const Block* blocks = reinterpret_cast<const Block*>(w.row(row));
  double sum = 0, magnitude = 0;
  for (int64_t b = 0; b < w.cols / kValues; ++b, x += kValues) {
    Integers integers;
    kernels::read_integers(blocks[b], integers);
    float largest = 0;
    for (int i = 0; i < kValues; ++i) largest = std::max(largest, std::abs(x[i]));
    const double dx = double{largest} / 127;
    double products = 0, mins = 0;
    for (int i = 0; i < kValues; ++i) {
      const double q = largest == 0 ? 0 : std::nearbyint(x[i] * (127 / largest));
      if constexpr (kValues == 256) {
        products += double(integers.d) * integers.scale[i / 16] * integers.q[i] * q;
        mins -= double(integers.dmin) * integers.min[i / 16] * q;
      } else {
        products += double(integers.d) * integers.q[i] * q;
        mins += double(integers.m) * q;
      }
    }
    sum += (products + mins) * dx, magnitude += (std::abs(products) + std::abs(mins)) * dx;
  }
  const double steps = static_cast<double>(2 * (w.cols / kValues) + 5);
  return {sum, steps * kUnit * magnitude + 1e-37};
}

Reference fast_reference(const Weight& w, int64_t row, const float* x) {
  using kernels::IntegerBlock256;
  using kernels::IntegerBlock32;
  switch (w.dtype) {
    case DType::q4_0: return fast_blocks<quant::BlockQ4_0, IntegerBlock32, 32>(w, row, x);
    case DType::q4_1: return fast_blocks<quant::BlockQ4_1, IntegerBlock32, 32>(w, row, x);
    case DType::q5_0: return fast_blocks<quant::BlockQ5_0, IntegerBlock32, 32>(w, row, x);
    case DType::q5_1: return fast_blocks<quant::BlockQ5_1, IntegerBlock32, 32>(w, row, x);
    case DType::q8_0: return fast_blocks<quant::BlockQ8_0, IntegerBlock32, 32>(w, row, x);
    case DType::iq4_nl: return fast_blocks<quant::BlockIQ4_NL, IntegerBlock32, 32>(w, row, x);
    case DType::mxfp4: return fast_blocks<quant::BlockMXFP4, IntegerBlock32, 32>(w, row, x);
    case DType::q2_k: return fast_blocks<quant::BlockQ2_K, IntegerBlock256, 256>(w, row, x);
    case DType::q3_k: return fast_blocks<quant::BlockQ3_K, IntegerBlock256, 256>(w, row, x);
    case DType::q4_k: return fast_blocks<quant::BlockQ4_K, IntegerBlock256, 256>(w, row, x);
    case DType::q5_k: return fast_blocks<quant::BlockQ5_K, IntegerBlock256, 256>(w, row, x);
    case DType::q6_k: return fast_blocks<quant::BlockQ6_K, IntegerBlock256, 256>(w, row, x);
    case DType::iq4_xs: return fast_blocks<quant::BlockIQ4_XS, IntegerBlock256, 256>(w, row, x);
    case DType::iq2_xxs: return fast_blocks<quant::BlockIQ2_XXS, IntegerBlock256, 256>(w, row, x);
    case DType::iq2_xs: return fast_blocks<quant::BlockIQ2_XS, IntegerBlock256, 256>(w, row, x);
    case DType::iq2_s: return fast_blocks<quant::BlockIQ2_S, IntegerBlock256, 256>(w, row, x);
    case DType::iq3_xxs: return fast_blocks<quant::BlockIQ3_XXS, IntegerBlock256, 256>(w, row, x);
    case DType::iq3_s: return fast_blocks<quant::BlockIQ3_S, IntegerBlock256, 256>(w, row, x);
    case DType::iq1_s: return fast_blocks<quant::BlockIQ1_S, IntegerBlock256, 256>(w, row, x);
    case DType::iq1_m: return fast_blocks<quant::BlockIQ1_M, IntegerBlock256, 256>(w, row, x);
    case DType::tq1_0: return fast_blocks<quant::BlockTQ1_0, IntegerBlock256, 256>(w, row, x);
    case DType::tq2_0: return fast_blocks<quant::BlockTQ2_0, IntegerBlock256, 256>(w, row, x);
    default: return exact_reference(w, row, x);
  }
}

/// Row lengths around the widths that matter to a format.
std::vector<int64_t> row_lengths(DType dtype) {
  const int64_t block = tensor::info(dtype).block_values;
  if (block == 256) return {256, 512, 768, 2304};
  if (block == 64) return {64, 128, 192, 256, 320, 576};
  if (block == 32) return {32, 64, 96, 256, 288, 576};
  return {1, 3, 15, 16, 17, 48, 72, 255, 256, 257, 515, 576};
}

class MatmulTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Formats, MatmulTest, testing::ValuesIn(test::weight_dtypes()),
                         [](const auto& each) { return std::string(tensor::name(each.param)); });

TEST_P(MatmulTest, IsWithinTheToleranceOfDoublePrecision) {
  const kernels::KernelTable& scalar = kernels::by_name("scalar");
  for (int64_t cols : row_lengths(GetParam())) {
    const int64_t rows = 5, tokens = 3;
    const RandomWeight w(GetParam(), rows, cols, 1);
    const std::vector<float> x = random_values(tokens * cols, 2);
    for (Precision precision : {Precision::f32, Precision::fast}) {
      Engine engine(scalar, precision);
      const std::vector<float> y = multiply(engine.context, x, w);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
          const float* row = x.data() + t * cols;
          const Reference expected =
              precision == Precision::f32 ? exact_reference(w, r, row) : fast_reference(w, r, row);
          EXPECT_NEAR(y[static_cast<size_t>(t * rows + r)], expected.value, expected.tolerance) << cols;
        }
      }
    }
  }
}

TEST_P(MatmulTest, InFastIsNearTheUnquantisedResult) {
  const int64_t cols = 1024, rows = 24;
  const RandomWeight w(GetParam(), rows, cols, 3);
  const std::vector<float> x = random_values(cols, 4);
  Engine exact(kernels::select(), Precision::f32), fast(kernels::select(), Precision::fast);
  const std::vector<float> a = multiply(exact.context, x, w), b = multiply(fast.context, x, w);
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) error += std::pow(a[i] - b[i], 2), norm += std::pow(a[i], 2);
  EXPECT_LT(std::sqrt(error / norm), 0.05);  // steps of largest / 127, and the largest is about 20 deviations
}

// More tokens of longer rows than AMX packs at a time: 32 of 16384 values.
TEST_P(MatmulTest, HasTheSameBitsWhereTokensGoInGroups) {
  if (!tensor::is_block(GetParam())) return;
  const int64_t cols = 16384, rows = 35, tokens = 75;
  const RandomWeight w(GetParam(), rows, cols, 5);
  const std::vector<float> x = random_values(tokens * cols, 6);
  std::vector<float> expected;
  for (const kernels::KernelTable* table : usable_tables()) {
    if (table->isa == "scalar") continue;  // the test below compares them with it
    Engine engine(*table, Precision::fast);
    const std::vector<float> y = multiply(engine.context, x, w);
    if (expected.empty()) expected = y;
    expect_same_bits(y, expected, std::string(table->isa));
    for (const int64_t t : {int64_t{0}, int64_t{31}, int64_t{32}, tokens - 1})
      expect_same_bits(std::span(y).subspan(static_cast<size_t>(t * rows), static_cast<size_t>(rows)),
                       multiply(engine.context, std::span(x).subspan(static_cast<size_t>(t * cols), cols), w),
                       fmt::format("{}, token {} alone", table->isa, t));
  }
}

// Scalar is the oracle: panels, tiles and fused paths of the others must not change a bit.
TEST_P(MatmulTest, HasTheSameBitsOnEveryInstructionSet) {
  for (int64_t cols : row_lengths(GetParam())) {
    for (int64_t rows : {1, 7, 8, 9, 16, 17, 33, 83}) {
      const RandomWeight w(GetParam(), rows, cols, 5, rows % 2 == 0 ? 0 : 7);
      for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 25, 70}) {
        if (tokens > 4 && rows != 33) continue;  // every tile size on one shape, every edge of rows on few tokens
        if (cols > 576 && tokens * rows > 40) continue;
        const std::vector<float> x = random_values(tokens * cols, 6);
        for (Precision precision : {Precision::f32, Precision::fast}) {
          Engine oracle(kernels::by_name("scalar"), precision);
          const std::vector<float> expected = multiply(oracle.context, x, w);
          for (const kernels::KernelTable* table : usable_tables()) {
            if (table->isa == "scalar") continue;
            Engine engine(*table, precision);
            expect_same_bits(
                multiply(engine.context, x, w), expected,
                fmt::format("{} [{}, {}] x {} {}", table->isa, rows, cols, tokens, static_cast<int>(precision)));
          }
        }
      }
    }
  }
}

TEST_P(MatmulTest, GivesATokenTheSameBitsInAnyBatchAndThreadCount) {
  const int64_t cols = 512, rows = 75, tokens = 37;
  const RandomWeight w(GetParam(), rows, cols, 7);
  std::vector<float> x = random_values(tokens * cols, 8);
  const std::vector<float> bias = random_values(rows, 9);
  for (const kernels::KernelTable* table : usable_tables()) {
    for (Precision precision : {Precision::f32, Precision::fast}) {
      Engine one(*table, precision);
      const std::vector<float> batch = multiply(one.context, x, w, bias.data());
      for (int threads : {2, 3}) {
        Engine more(*table, precision, threads);
        expect_same_bits(multiply(more.context, x, w, bias.data()), batch, "threads");
      }
      for (int64_t t : {0, 11, 36}) {
        const std::span<const float> token(x.data() + t * cols, static_cast<size_t>(cols));
        const std::span<const float> expected(batch.data() + t * rows, static_cast<size_t>(rows));
        expect_same_bits(multiply(one.context, token, w, bias.data()), expected, "one token");
        // A range of rows, starting in the middle of a panel.
        const std::vector<float> part = multiply(one.context, token, w.view().row_range(13, 60), bias.data() + 13);
        expect_same_bits(part, expected.subspan(13, 47), "row range");
      }
    }
  }
}

TEST_P(MatmulTest, NeighboursDoNotMatter) {
  const int64_t cols = 256, rows = 33, tokens = 9;
  const RandomWeight w(GetParam(), rows, cols, 10);
  const std::vector<float> x = random_values(tokens * cols, 11);
  std::vector<float> other = random_values(tokens * cols, 12);
  other[3] = std::numeric_limits<float>::quiet_NaN(), other[static_cast<size_t>(cols) + 5] = INFINITY;
  std::copy_n(x.begin() + 4 * cols, cols, other.begin() + 4 * cols);
  for (const kernels::KernelTable* table : usable_tables()) {
    for (Precision precision : {Precision::f32, Precision::fast}) {
      Engine engine(*table, precision);
      const std::vector<float> a = multiply(engine.context, x, w), b = multiply(engine.context, other, w);
      expect_same_bits(std::span(b).subspan(4 * rows, rows), std::span(a).subspan(4 * rows, rows), "token 4");
      for (int64_t r = 0; r < rows; ++r) EXPECT_TRUE(std::isnan(b[static_cast<size_t>(r)])) << "a NaN must not vanish";
    }
  }
}

/// `size` bytes that end where the process has no memory: a file may end with its last tensor. The same for x.
class EndOfMemory {
 public:
  explicit EndOfMemory(int64_t size) : page_(::sysconf(_SC_PAGESIZE)) {
    pages_ = (size + page_ - 1) / page_ * page_;
    base_ = static_cast<std::byte*>(::mmap(nullptr, static_cast<size_t>(pages_ + page_), PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(base_ + pages_, static_cast<size_t>(page_), PROT_NONE);
    data_ = base_ + pages_ - size;
  }
  ~EndOfMemory() { ::munmap(base_, static_cast<size_t>(pages_ + page_)); }
  EndOfMemory(const EndOfMemory&) = delete;
  EndOfMemory& operator=(const EndOfMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  int64_t page_, pages_;
  std::byte *base_, *data_;
};

TEST_P(MatmulTest, ReadsNothingPastTheEnd) {
  const std::vector<int64_t> lengths = row_lengths(GetParam());
  for (int64_t cols : std::span(lengths).first(6 < lengths.size() ? 6 : lengths.size())) {
    for (int64_t rows : {1, 16, 17}) {
      const RandomWeight w(GetParam(), rows, cols, 15);
      const EndOfMemory bytes(w.view().bytes());
      std::memcpy(bytes.data(), w.view().data, static_cast<size_t>(w.view().bytes()));
      const Weight last(bytes.data(), GetParam(), rows, cols);
      for (int64_t tokens : {1, 2, 3}) {
        const std::vector<float> x = random_values(tokens * cols, 16);
        const EndOfMemory x_bytes(tokens * cols * 4);
        std::memcpy(x_bytes.data(), x.data(), x.size() * 4);
        const std::span<const float> last_x(reinterpret_cast<const float*>(x_bytes.data()), x.size());
        for (const kernels::KernelTable* table : usable_tables()) {
          for (Precision precision : {Precision::f32, Precision::fast}) {
            Engine engine(*table, precision);
            expect_same_bits(multiply(engine.context, last_x, last), multiply(engine.context, x, w), "at the end");
          }
        }
      }
    }
  }
}

TEST_P(MatmulTest, TakesTinyAndHugeActivations) {
  const int64_t cols = 256, rows = 16;
  const RandomWeight w(GetParam(), rows, cols, 13);
  for (float scale : {0.0f, 1e-42f, 1e-35f, 1e-20f, 1e30f}) {
    std::vector<float> x = random_values(cols, 14);
    for (float& value : x) value *= scale;
    for (const kernels::KernelTable* table : usable_tables()) {
      Engine engine(*table);
      for (float value : multiply(engine.context, x, w)) EXPECT_TRUE(std::isfinite(value)) << scale;
    }
  }
}

TEST(Matmul, EachSharesXAmongWeightsOfSeveralFormats) {
  const int64_t cols = 512, tokens = 6;
  const std::vector<float> x = random_values(tokens * cols, 20);
  const RandomWeight q(DType::q4_k, 40, cols, 21), k(DType::q6_k, 17, cols, 22), v(DType::q8_0, 8, cols, 23),
      g(DType::f32, 3, cols, 24);
  const std::vector<float> bias = random_values(17, 25);
  for (int threads : {1, 2}) {
    Engine engine(kernels::select(), Precision::fast, threads);
    std::vector<float> y(static_cast<size_t>(tokens) * (40 + 17 + 8 + 3));
    // One buffer, columns of each side by side, so that a stride is used too.
    const Matrix all(y.data(), tokens, 68);
    const MatmulTarget targets[] = {{q, nullptr, all.col_range(0, 40)},
                                    {k, bias.data(), all.col_range(40, 57)},
                                    {v, nullptr, all.col_range(57, 65)},
                                    {g, nullptr, all.col_range(65, 68)}};
    matmul_each(engine.context, ConstMatrix(x.data(), tokens, cols), targets);
    for (const MatmulTarget& target : targets) {
      const std::vector<float> alone = multiply(engine.context, x, target.w, target.bias);
      for (int64_t t = 0; t < tokens; ++t)
        expect_same_bits(
            {target.y.row(t), static_cast<size_t>(target.w.rows)},
            std::span(alone).subspan(static_cast<size_t>(t * target.w.rows), static_cast<size_t>(target.w.rows)),
            "each");
    }
  }
}

// GPTQ with act-order: the weight's columns lie group by group, the inputs as the layer has them.
TEST(Matmul, BringsInputsIntoTheOrderOfTheColumnsToTheBit) {
  const int64_t rows = 40, cols = 256;
  base::Rng rng(1, 1);
  std::vector<int32_t> columns(static_cast<size_t>(cols));
  std::iota(columns.begin(), columns.end(), 0);
  for (size_t i = columns.size() - 1; i > 0; --i) std::swap(columns[i], columns[rng.below(i + 1)]);
  for (const DType dtype : {DType::int4_32_f16, DType::int4_64_bf16, DType::int8_32_f16}) {
    const RandomWeight stored(dtype, rows, cols, 5);
    Weight ordered = stored;
    ordered.columns = columns.data();
    for (const int64_t tokens : {1, 5, 150}) {
      const std::vector<float> x = random_values(tokens * cols, 6);
      std::vector<float> sorted(x.size());
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t c = 0; c < cols; ++c)
          sorted[static_cast<size_t>(t * cols + c)] =
              x[static_cast<size_t>(t * cols + columns[static_cast<size_t>(c)])];
      for (const kernels::KernelTable* table : usable_tables())
        for (const Precision precision : {Precision::fast, Precision::f32}) {
          Engine one(*table, precision), three(*table, precision, 3);
          const std::vector<float> wanted = multiply(one.context, sorted, stored);
          expect_same_bits(multiply(one.context, x, ordered), wanted, std::string(tensor::name(dtype)));
          expect_same_bits(multiply(three.context, x, ordered), wanted, "on three threads");
        }
    }
    // Rows that are looked up come in the order of the inputs.
    std::vector<float> found(static_cast<size_t>(cols)), as_stored(found.size());
    quant::decode_row(ordered, 3, found.data());
    quant::decode(dtype, stored.view().row(3), as_stored.data(), cols);
    for (size_t c = 0; c < found.size(); ++c) ASSERT_EQ(found[static_cast<size_t>(columns[c])], as_stored[c]);
  }
}

TEST(Matmul, TakesEmptyBatches) {
  Engine engine(kernels::select());
  const RandomWeight w(DType::q4_k, 16, 256, 1);
  EXPECT_TRUE(multiply(engine.context, {}, w).empty());
}

TEST(Matmul, RefusesShapesThatDoNotFit) {
  Engine engine(kernels::select());
  const RandomWeight w(DType::f32, 4, 8, 1);
  std::vector<float> x(16), y(16);
  EXPECT_THROW(matmul(engine.context, ConstMatrix(x.data(), 2, 7), w, nullptr, Matrix(y.data(), 2, 4)), base::Error);
  EXPECT_THROW(matmul(engine.context, ConstMatrix(x.data(), 2, 8), w, nullptr, Matrix(y.data(), 2, 5)), base::Error);
  EXPECT_THROW(matmul(engine.context, ConstMatrix(x.data(), 2, 8), w, nullptr, Matrix(y.data(), 1, 4)), base::Error);
  const Weight odd(reinterpret_cast<const std::byte*>(x.data()), DType::i32, 2, 8);
  EXPECT_THROW(matmul(engine.context, ConstMatrix(x.data(), 1, 8), odd, nullptr, Matrix(y.data(), 1, 2)), base::Error);
}

}  // namespace
}  // namespace coterie::ops
