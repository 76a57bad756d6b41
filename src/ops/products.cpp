#include "ops/products.h"

#include <algorithm>

#include "base/error.h"
#include "ops/matmul_job.h"
#include "ops/rows.h"
#include "quant/rows.h"

namespace coterie::ops {

using base::require;
using tensor::ConstMatrix;
using tensor::Matrix;

namespace {

// A piece: some hundred rows share a packed b, and its c stays in the second cache. Where that leaves too few pieces
// for the threads they have half the rows.
constexpr int64_t kPieceRows = 480, kPieceCols = 192;
constexpr int64_t kPieces = 8;  // of each thread

/// Cuts `count` into `pieces` of about the same length, multiples of `grain` but the last.
int64_t cut(int64_t count, int64_t most, int64_t grain) {
  const int64_t pieces = std::max<int64_t>((count + most - 1) / most, 1);
  const int64_t length = (count + pieces - 1) / pieces;
  return std::max<int64_t>((length + grain - 1) / grain * grain, 1);
}

}  // namespace

kernels::GemmTask gemm_task(const Product& product, Matrix c, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  kernels::GemmTask task;
  task.rows = rows, task.cols = cols, task.depth = product.depth;
  task.a_stride = product.a.stride, task.a_by_depth = product.a_by_depth, task.a_index = product.a_index;
  if (product.a_by_depth)
    task.a = product.a.data + row;
  else if (product.a_index)
    task.a = product.a.data, task.a_index = product.a_index + row;
  else
    task.a = product.a.row(row);
  task.b = product.b.data + col, task.b_stride = product.b.stride, task.b_index = product.b_index;
  task.c = c.row(row) + col, task.c_stride = c.stride;
  return task;
}

const kernels::GemmKernels& gemm_of(const Context& context) {
  if (context.precision != Precision::bf16) return context.kernels.gemm;
  require(context.kernels.gemm_bf16.run != nullptr, "product", "bf16 without kernels for it");
  return context.kernels.gemm_bf16;
}

void Products::add(Matrix c, std::span<const Product> chain, bool overwrite) {
  for (const Product& p : chain) {
    const int64_t rows = p.a_by_depth ? p.a.cols : p.a_index ? c.rows : p.a.rows;
    const int64_t depth = !p.a_by_depth ? p.a.cols : p.a_index ? p.depth : p.a.rows;
    require(rows == c.rows && depth == p.depth && p.b.cols == c.cols && (p.b_index || p.b.rows == p.depth), "product",
            "[{}, {}] x [{}, {}] over {} into [{}, {}]", rows, depth, p.b.rows, p.b.cols, p.depth, c.rows, c.cols);
  }
  if (c.rows > 0 && c.cols > 0) targets_.push_back({c, {chain.begin(), chain.end()}, overwrite});
}

void Products::run(Context& context) {
  struct Part {
    const Target* target;
    int64_t row, rows, col, cols;
  };
  const kernels::GemmKernels& gemm = gemm_of(context);
  std::vector<Part> parts;
  int64_t work = 0, pieces = 0;
  for (const Target& target : targets_)
    pieces += (target.c.rows + kPieceRows - 1) / kPieceRows * ((target.c.cols + kPieceCols - 1) / kPieceCols);
  const int64_t most = pieces < kPieces * context.pool.threads() ? kPieceRows / 2 : kPieceRows;
  for (const Target& target : targets_) {
    const int64_t rows = cut(target.c.rows, most, gemm.row_tile);
    const int64_t cols = cut(target.c.cols, kPieceCols, gemm.col_tile);
    for (const Product& p : target.chain) work += target.c.rows * target.c.cols * p.depth;
    for (int64_t col = 0; col < target.c.cols; col += cols)
      for (int64_t row = 0; row < target.c.rows; row += rows)
        parts.push_back({&target, row, std::min(rows, target.c.rows - row), col, std::min(cols, target.c.cols - col)});
  }
  const tensor::ArenaScope scope(context.arena);
  const WorkerScratch scratch(context, gemm.scratch_floats * static_cast<int64_t>(sizeof(float)));
  const auto run_part = [&](int64_t index, int worker) {
    const Part& part = parts[static_cast<size_t>(index)];
    bool accumulate = !part.target->overwrite;
    for (const Product& product : part.target->chain) {
      kernels::GemmTask task = gemm_task(product, part.target->c, part.row, part.rows, part.col, part.cols);
      task.scratch = reinterpret_cast<float*>(scratch.of(worker));
      task.accumulate = accumulate;
      gemm.run(task);
      accumulate = true;
    }
  };
  const auto count = static_cast<int64_t>(parts.size());
  if (work < kParallelElements) {
    for (int64_t i = 0; i < count; ++i) run_part(i, 0);
  } else {
    context.pool.each(count, run_part);
  }
  targets_.clear();
}

ConstMatrix as_floats(Context& context, const tensor::Weight& weight) {
  base::require(!weight.repacked, "as_floats", "repacked rows of {}, which only matmuls read",
                tensor::name(weight.dtype));
  if (weight.dtype == tensor::DType::f32)
    return {reinterpret_cast<const float*>(weight.data), weight.rows, weight.cols,
            weight.row_stride / static_cast<int64_t>(sizeof(float))};
  const Matrix decoded = context.arena.matrix(weight.rows, weight.cols);
  for_rows(context, weight.rows, weight.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) quant::decode_row(weight, r, decoded.row(r));
  });
  return decoded;
}

void add_column_sums(Context& context, ConstMatrix x, float* into) {
  constexpr int64_t kBlock = 64;  // rows added up before the blocks are
  if (x.rows == 0) return;
  const tensor::ArenaScope scope(context.arena);
  const int64_t blocks = (x.rows + kBlock - 1) / kBlock;
  const Matrix sums = context.arena.matrix(blocks, x.cols);
  for_rows(context, blocks, kBlock * x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* sum = sums.row(b);
      std::fill_n(sum, x.cols, 0.0f);
      for (int64_t r = b * kBlock; r < std::min(x.rows, (b + 1) * kBlock); ++r)
        context.kernels.vector.add_scaled(x.row(r), 1, sum, x.cols);
    }
  });
  for (int64_t b = 0; b < blocks; ++b) context.kernels.vector.add_scaled(sums.row(b), 1, into, x.cols);
}

void clear(Context& context, Matrix x) {
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) std::fill_n(x.row(r), x.cols, 0.0f);
  });
}

}  // namespace coterie::ops
