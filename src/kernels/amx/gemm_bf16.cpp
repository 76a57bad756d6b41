#include <immintrin.h>

#include "kernels/amx/gemm_bf16.h"
#include "kernels/simd/avx512.h"

// GCC 12 sees uninitialised variables in its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

// Products of bf16 by tiles: operands packed as for vdpbf16ps, which is how TDPBF16PS wants them, 16 rows of 16 pairs
// times 16 pairs of 16 columns at once. An output is the sum, in order, of the sums of kGemmDepth products, and the
// pairs of a sum are taken 16 at a time in order: forward and backward, any tile and any cut give the same bits. They
// are not those of AVX-512, whose sums round after each pair.
COTERIE_BEGIN_TARGET("amx-tile,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")

namespace coterie::kernels::amx {

namespace {
using namespace avx512;

#include "kernels/avx512/pairs.inl.h"

#include "kernels/amx/tiles.inl.h"

constexpr int64_t kBlock = 2 * kTileRows;  // rows of a product under way, and its columns: four tiles of sums
static_assert(kBlock == kPanel);

/// sums += rows x columns, of 16 pairs each.
template <int kSums, int kRows, int kCols>
COTERIE_INLINE void add_pairs() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kCols));
}

/// The four tiles of `steps` times 16 pairs, into tiles 0 (rows 0 to 15, columns 0 to 15), 1 (columns 16 to 31), 2, 3.
template <bool kSecondRows, bool kSecondCols>
COTERIE_INLINE void multiply(const uint32_t* rows, const uint32_t* panel, int64_t steps) {
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  for (int64_t step = 0; step < steps; ++step, rows += kWidth, panel += kWidth * kPanel) {
    load_tile<4>(rows, kRowPairs * 4);
    load_tile<6>(panel, kPanel * 4);
    add_pairs<0, 4, 6>();
    if constexpr (kSecondCols) load_tile<7>(panel + kWidth, kPanel * 4), add_pairs<1, 4, 7>();
    if constexpr (kSecondRows) load_tile<5>(rows + kTileRows * kRowPairs, kRowPairs * 4), add_pairs<2, 5, 6>();
    if constexpr (kSecondRows && kSecondCols) add_pairs<3, 5, 7>();
  }
}

/// A tile of sums, as `rows` rows of `cols` values of c.
COTERIE_INLINE void put(const Sums& sums, float* c, int64_t c_stride, int64_t rows, int64_t cols, bool add_to) {
  const __mmask16 mask = first_lanes(cols);
  for (int64_t t = 0; t < rows; ++t) {
    __m512 sum = _mm512_castsi512_ps(_mm512_load_si512(sums.lane[t]));
    if (add_to) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c + t * c_stride), sum);
    _mm512_mask_storeu_ps(c + t * c_stride, mask, sum);
  }
}

COTERIE_INLINE void run_block(const uint32_t* packed, const uint32_t* panel, int64_t steps, float* c, int64_t c_stride,
                              int64_t rows, int64_t cols, bool add_to) {
  const bool second_rows = rows > kTileRows, second_cols = cols > kWidth;
  if (second_rows && second_cols)
    multiply<true, true>(packed, panel, steps);
  else if (second_rows)
    multiply<true, false>(packed, panel, steps);
  else if (second_cols)
    multiply<false, true>(packed, panel, steps);
  else
    multiply<false, false>(packed, panel, steps);
  Sums sums[4];
  store_sums<4>(sums);
  for (int64_t tile = 0; tile < 4; ++tile) {
    const int64_t row = tile / 2 * kTileRows, col = tile % 2 * kWidth;
    if (row < rows && col < cols)
      put(sums[tile], c + row * c_stride + col, c_stride, least(kTileRows, rows - row), cols - col, add_to);
  }
}

/// Rows [row, end) of an a that lies by depth, by rows: 16 pairs of 16 rows transposed at a time.
COTERIE_INLINE void pack_by_depth(const PairTask& task, int64_t depth, int64_t count, int64_t row, int64_t end,
                                  uint32_t* packed, uint32_t* lines) {
  for (int64_t k = 0; k < count; k += 2 * kWidth) {
    for (int64_t r = row; r < end; r += kWidth) {
      for (int64_t i = 0; i < kWidth; ++i) {
        const int64_t first = depth + k + 2 * i, last = depth + count;
        const __m512i words = first < last
                                  ? pair(task.a_row(first) + r, first + 1 < last ? task.a_row(first + 1) + r : nullptr,
                                         first_lanes(end - r))
                                  : _mm512_setzero_si512();
        _mm512_storeu_si512(lines + i * kWidth, words);
      }
      transpose(lines, kWidth, packed + (r - row) * kRowPairs + k / 2, kRowPairs);
    }
  }
}

struct Bf16Product {
  static constexpr int64_t kPackedCols = 256, kPackedRows = 128, kRows = kBlock;

  static COTERIE_INLINE void pack_by_depth(const PairTask& task, int64_t depth, int64_t count, int64_t row, int64_t end,
                                           uint32_t* packed, uint32_t* lines) {
    amx::pack_by_depth(task, depth, count, row, end, packed, lines);
  }
  static COTERIE_INLINE void run(const uint32_t* packed, bool, const uint32_t* panel, int64_t pairs, float* c,
                                 int64_t c_stride, int64_t rows, int64_t cols, bool add_to) {
    run_block(packed, panel, (pairs + kWidth - 1) / kWidth, c, c_stride, rows, cols, add_to);
  }
};
constexpr int64_t kScratch = kPairScratch<Bf16Product>;

void run_task(const PairTask& task) {
  configure_tiles(kTileRows);
  run_pairs<Bf16Product>(task);
  release_tiles();
}

void run_gemm_bf16(const GemmTask& given) noexcept { run_task(pair_task(given)); }
void run_matmul_bf16(const MatmulTask& given) noexcept { run_task(pair_task(given)); }

int64_t matmul_scratch(tensor::DType, int64_t) noexcept { return kScratch * static_cast<int64_t>(sizeof(uint32_t)); }

int64_t peak_bf16(int64_t rounds, float* sink) noexcept {
  configure_tiles(kTileRows);
  alignas(64) uint32_t halves[kTileRows * kWidth];
  for (uint32_t& word : halves) word = 0x3f003f00;  // 0.5, 0.5
  load_tile<4>(halves, 64), load_tile<5>(halves, 64), load_tile<6>(halves, 64), load_tile<7>(halves, 64);
  zero_sums<4>();
  for (int64_t round = 0; round < rounds; ++round)
    add_pairs<0, 4, 6>(), add_pairs<1, 4, 7>(), add_pairs<2, 5, 6>(), add_pairs<3, 5, 7>();
  Sums sums[4];
  store_sums<4>(sums);
  release_tiles();
  *sink = _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_load_si512(sums[0].lane[0])));
  return 4 * kTileRows * kWidth * kPanel;
}

}  // namespace

}  // namespace coterie::kernels::amx

COTERIE_END

namespace coterie::kernels::amx {

constinit const GemmKernels gemm_kernels_bf16 = {kBlock, kBlock, kScratch, run_gemm_bf16};

void add_matmul_bf16(MatmulKernels& kernels) {
  kernels.bf16 = {run_matmul_bf16, matmul_scratch, ActivationForm::floats};
  kernels.peak_bf16 = peak_bf16;
}

}  // namespace coterie::kernels::amx
