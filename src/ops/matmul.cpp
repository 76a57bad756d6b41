#include "ops/matmul.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "ops/gradients.h"
#include "ops/matmul_job.h"
#include "ops/observer.h"
#include "ops/products.h"
#include "ops/row_share.h"
#include "ops/tape.h"

namespace coterie::ops {

namespace {

/// The rows of the weights that are this rank's, then those of the others.
void multiply_own(Context& context, ConstMatrix x, std::span<const MatmulTarget> targets) {
  refuse_tape(context, "a matmul over ranks");
  RowShare& share = *context.rows;
  const int64_t panel = context.kernels.matmul.panel_rows;
  std::vector<MatmulTarget> own;
  std::vector<RowShare::Divided> divided;
  for (const MatmulTarget& target : targets) {
    const Weight& w = target.w;
    base::require(target.y.cols == w.rows, "matmul", "a weight [{}, {}] makes [{}, {}], y is [{}, {}]", w.rows, w.cols,
                  x.rows, w.rows, target.y.rows, target.y.cols);
    const RowRange rows = share.own_rows(w.rows, w.cols, panel);
    own.push_back({w.row_range(rows.begin, rows.end), target.bias ? target.bias + rows.begin : nullptr,
                   target.y.col_range(rows.begin, rows.end)});
    if (share.divides(w.rows, w.cols, panel)) divided.push_back({target.y, panel});
  }
  Context here = context;
  here.rows = nullptr;
  matmul_each(here, x, own);
  if (!divided.empty() && x.rows > 0) share.gather(divided);
}

}  // namespace

void matmul(Context& context, ConstMatrix x, const Weight& w, const float* bias, Matrix y) {
  const MatmulTarget target{w, bias, y};
  matmul_each(context, x, {&target, 1});
}

void matmul_each(Context& context, ConstMatrix x, std::span<const MatmulTarget> targets) {
  constexpr std::string_view where = "matmul";
  if (context.rows) return multiply_own(context, x, targets);
  if (context.tape) record_matmul(*context.tape, context.precision, x, targets);
  if (context.observer)
    for (const MatmulTarget& target : targets) context.observer->input(target.w, x);
  const tensor::ArenaScope scope(context.arena);
  std::vector<MatmulTarget> floats;
  if (context.precision == Precision::bf16) {
    // It multiplies floats: weights of another format, which are frozen, are decoded for the call.
    floats.assign(targets.begin(), targets.end());
    for (MatmulTarget& target : floats) {
      if (!target.w || target.w.dtype == tensor::DType::f32) continue;
      const ConstMatrix decoded = as_floats(context, target.w);
      target.w = {reinterpret_cast<const std::byte*>(decoded.data), tensor::DType::f32, decoded.rows, decoded.cols};
    }
    targets = floats;
  }
  PreparedRows prepared(context, x);
  int64_t scratch_bytes = 0, total_rows = 0, piece_tokens = std::max<int64_t>(x.rows, 1);
  double total_bytes = 0;
  bool repacked = true;
  for (const MatmulTarget& target : targets) {
    const kernels::MatmulKernel& kernel = kernel_of(context, target.w, x.cols, where);
    base::require(target.y.rows == x.rows && target.y.cols == target.w.rows, where,
                  "x [{}, {}] and weight [{}, {}] make [{}, {}], y is [{}, {}]", x.rows, x.cols, target.w.rows,
                  target.w.cols, x.rows, target.w.rows, target.y.rows, target.y.cols);
    prepared.need(kernel.form);
    scratch_bytes = std::max(scratch_bytes, scratch_of_kernel(kernel, target.w, x.rows));
    piece_tokens = std::min(piece_tokens, tokens_a_piece(kernel.form, x.rows));
    total_rows += target.w.rows;
    repacked &= target.w.repacked;
    total_bytes += static_cast<double>(target.w.bytes());
  }
  if (x.rows == 0 || total_rows == 0) return;
  if (x.cols == 0) {
    for (const MatmulTarget& target : targets) fill_zero(target.y), add_bias(target.y, target.bias);
    return;
  }
  const WorkerScratch scratch(context, scratch_bytes);

  const bool in_floats = piece_tokens < x.rows;
  const double bytes_a_row = total_bytes / static_cast<double>(total_rows);
  const int64_t piece_rows = in_floats
                                 ? rows_of_floats(context, targets.front().w.rows, total_rows * x.rows / piece_tokens)
                             : x.rows == 1 && repacked ? rows_of_run(context, total_rows, bytes_a_row)
                                                       : rows_a_piece(context, total_rows, x.cols, x.rows, bytes_a_row);
  // Where the rows make too few pieces for the threads (a router, say), the tokens are cut too.
  const int64_t row_pieces = (total_rows + piece_rows - 1) / piece_rows;
  const int64_t wanted = 2 * int64_t{context.pool.threads()};
  const int64_t cuts = std::max((x.rows + piece_tokens - 1) / piece_tokens,
                                context.pool.threads() == 1 || row_pieces >= wanted
                                    ? 1
                                    : std::clamp<int64_t>(wanted / row_pieces, 1, std::max<int64_t>(x.rows / 32, 1)));
  int64_t count = 0;
  for (const MatmulTarget& target : targets) count += (target.w.rows + piece_rows - 1) / piece_rows * cuts;
  Piece* pieces = context.arena.take<Piece>(count);
  int64_t made = 0;
  for (size_t i = 0; i < targets.size(); ++i)
    for (int64_t begin = 0; begin < targets[i].w.rows; begin += piece_rows)
      for (int64_t cut = 0; cut < cuts; ++cut)
        pieces[made++] = {static_cast<int64_t>(i), begin, std::min(begin + piece_rows, targets[i].w.rows),
                          x.rows * cut / cuts, x.rows * (cut + 1) / cuts};

  const int64_t threads = context.pool.threads();
  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const Piece& piece = pieces[index];
    const MatmulTarget& target = targets[static_cast<size_t>(piece.target)];
    const kernels::MatmulKernel& kernel = kernel_of(context, target.w, x.cols, where);
    const Matrix y = target.y.row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    const auto rows_of = [&](const Piece& other) {
      return targets[static_cast<size_t>(other.target)].w.row_range(other.begin, other.end);
    };
    const Weight next = index + threads < count ? rows_of(pieces[index + threads]) : Weight();
    run_kernel(context, kernel, rows_of(piece), prepared.rows(kernel.form) + piece.token_begin, y.rows, y,
               scratch.of(worker), next);
    add_bias(y, target.bias == nullptr ? nullptr : target.bias + piece.begin);
  });
}

}  // namespace coterie::ops
