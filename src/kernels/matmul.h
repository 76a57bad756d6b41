#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/activation.h"  // VectorKernels::activate (kernels/vector.h) is the one that applies it
#include "tensor/dtype.h"

// The kernels behind ops::matmul: a range of a weight's rows times some rows of activations.
//
// What an output is, to the bit, depends on the weight's row, the row of x and nothing else; for a given precision all
// instruction sets agree, because everything but one fixed sequence of f32 operations an output is exact in integers:
//
//   fast, 256-value blocks (q2_k … q6_k, iq1_s … iq4_xs, tq1_0, tq2_0), for each block in order:
//       y = fma(d * dx, Σ_sub scale_sub * Σ q x, y);  where there are mins: y = fma(-(dmin * dx), Σ_sub min_sub * Σ x,
//       y)
//   fast, 32-value blocks (q4_0 … q8_0, iq4_nl, mxfp4), for each block in order:
//       y = fma(d * dx, Σ q x, y);                     where there is an m: y = fma(m, dx * Σ x, y)
//   floats, blocks of quantised safetensors, and every format in exact: for each 256 values in order, chunk = fma(w, x,
//   chunk) from 0; y = y + chunk
//
// d, m, dmin are the weight's (f16, widened; of iq1, iq2 and iq3_xxs over the power of two that makes q and the scales
// integers), q its codes with their offset taken off, x the int8 activations.
namespace coterie::kernels {

/// How the rows of x come: as they are, or quantised to int8 in blocks.
enum class ActivationForm : uint8_t { floats, blocks32, blocks256 };
inline constexpr int kActivationForms = 3;

/// value = d * q, |q| <= 127. A block that holds a NaN or an infinity has d = NaN: every output of that row is NaN.
/// Blocks whose largest magnitude is below kSmallestActivation count as zero (127 / magnitude must be finite).
inline constexpr float kSmallestActivation = 1e-30f;
struct ActivationBlock32 {
  int8_t q[32];
  float d;
  float scaled_sum;    // d * Σ q
  int32_t offset_sum;  // -128 * Σ q: shifted right it undoes the offset of unsigned codes
  int32_t unused;
};
struct ActivationBlock256 {
  int8_t q[256];
  int16_t sum16[16];  // of 16 values each
  int16_t sum32[8];   // of 32 values each
  // -32 * Σ over each 16 values, the sums of values 4i, 4i + 1 and of 4i + 2, 4i + 3 apart: sums of products of 16 bits
  // that begin here are those of codes with 32 taken off.
  int16_t offsets[16][2];
  float d;
  float unused[3];
};
static_assert(sizeof(ActivationBlock32) == 48 && sizeof(ActivationBlock256) == 384);

/// Bytes of a block that lie together for all rows of a panel: those of less than 4 bytes row after row, else in words
/// of 4 bytes, each word of all rows.
struct RepackedRun {
  int16_t at, bytes;
};
struct RepackedOrder {  // every byte of a block once
  const RepackedRun* runs = nullptr;
  int64_t count = 0;
  int64_t block_bytes = 0;  // a row that is not a whole number of these cannot be repacked
};

/// How one thread walks repacked rows, which is the processor's matter and changes no result: streams side by side, 1,
/// 2 or 4, and how many bytes ahead of where each is read is prefetched, 0 where the hardware prefetcher does better
/// alone. (Floats take two streams where one is wanted: their sums would wait for each other.)
struct ReadAhead {
  int64_t streams = 1, bytes = 0;
};

struct MatmulTask {
  const std::byte* weights = nullptr;  // `rows` rows of `cols` values, row_stride bytes apart
  tensor::DType dtype = tensor::DType::f32;
  int64_t row_stride = 0, rows = 0, cols = 0;
  bool repacked = false;                // the rows lie as MatmulKernels::repack leaves them; whole panels of them
  const std::byte* const* x = nullptr;  // [tokens] rows in the kernel's form, `cols` values each
  int64_t tokens = 0;
  float* y = nullptr;  // y[t * y_stride + r] for row r of the weights is overwritten
  int64_t y_stride = 0;
  std::byte* scratch = nullptr;  // scratch_bytes(), aligned to a cache line, of this thread alone
  // What this thread will probably read next, to be fetched into its cache meanwhile; a hint that changes no result.
  const std::byte* next = nullptr;
  int64_t next_bytes = 0;
  ReadAhead read_ahead;
};

struct MatmulKernel {
  void (*run)(const MatmulTask&) noexcept = nullptr;  // null: this dtype is not a weight format
  int64_t (*scratch_bytes)(tensor::DType dtype, int64_t cols) noexcept = nullptr;
  ActivationForm form = ActivationForm::floats;
  RepackedOrder repacked = {};  // count 0: the kernel reads no repacked rows
  int64_t tiles_from = 0;       // tokens from which on tiles multiply, whose limit is peak_tiles; 0: none do
};

struct MatmulKernels {
  int64_t panel_rows = 1;  // rows worked on together: split work at multiples of it
  std::array<MatmulKernel, tensor::kDTypes> exact{};
  std::array<MatmulKernel, tensor::kDTypes> fast{};
  /// Turns a panel of rows of row_bytes each, row_stride apart, into the same bytes in the order in which a kernel
  /// wants them: for each block run after run. Null: no kernel of this instruction set reads such rows.
  void (*repack)(const std::byte* rows, int64_t row_stride, int64_t row_bytes, RepackedOrder order,
                 std::byte* repacked) noexcept = nullptr;
  MatmulKernel bf16;  // f32 weights and rows of x, rounded to bf16; without `run` where the CPU has no such products
  void (*quantise32)(const float* x, int64_t count, ActivationBlock32* blocks) noexcept = nullptr;  // count % 32 == 0
  void (*quantise256)(const float* x, int64_t count,
                      ActivationBlock256* blocks) noexcept = nullptr;  // count % 256 == 0
  /// Multiply-adds for the probe: runs `rounds` of them from registers and returns how many a round holds. The sum
  /// goes to *sink so that nothing is optimised away.
  int64_t (*peak_f32)(int64_t rounds, float* sink) noexcept = nullptr;
  int64_t (*peak_int8)(int64_t rounds, int32_t* sink) noexcept = nullptr;
  int64_t (*peak_tiles)(int64_t rounds, int32_t* sink) noexcept = nullptr;  // int8, by AMX; null where no kernel has it
  int64_t (*peak_bf16)(int64_t rounds, float* sink) noexcept = nullptr;     // null where `bf16` has no `run`
  /// Reads `bytes` (a multiple of 64), walked so, and returns a digest of them.
  uint64_t (*read)(const std::byte* data, int64_t bytes, ReadAhead walk) noexcept = nullptr;
};

}  // namespace coterie::kernels
