#include <algorithm>
#include <vector>

#include "base/error.h"
#include "ops/gradients.h"
#include "ops/matmul.h"
#include "ops/matmul_job.h"
#include "ops/observer.h"
#include "ops/products.h"

namespace coterie::ops {

namespace {

/// Every H-th row of m, from row h on.
template <typename M>
M of_head(M m, int64_t heads, int64_t h) {
  return {m.data + h * m.stride, m.rows / heads, m.cols, m.stride * heads};
}

}  // namespace

void batched_matmul(Context& context, ConstMatrix x, std::span<const Weight> given, Matrix y) {
  constexpr std::string_view where = "batched_matmul";
  const auto heads = std::ssize(given);
  base::require(heads > 0 && x.rows % heads == 0 && y.rows == x.rows, where, "{} and {} rows for {} weights", x.rows,
                y.rows, heads);
  for (int64_t h = 0; h < heads && (context.tape || context.observer); ++h) {
    const MatmulTarget target{given[static_cast<size_t>(h)], nullptr, of_head(y, heads, h)};
    if (context.tape) record_matmul(*context.tape, context.precision, of_head(x, heads, h), {&target, 1});
    if (context.observer) context.observer->input(target.w, of_head(x, heads, h));
  }
  if (x.rows == 0 || y.cols == 0) return;
  const tensor::ArenaScope scope(context.arena);
  std::vector<Weight> weights(given.begin(), given.end());
  if (context.precision == Precision::bf16)  // it multiplies floats: frozen weights of another format are decoded
    for (Weight& w : weights)
      if (w.dtype != tensor::DType::f32) {
        const ConstMatrix floats = as_floats(context, w);
        w = {reinterpret_cast<const std::byte*>(floats.data), tensor::DType::f32, floats.rows, floats.cols};
      }

  PreparedRows prepared(context, x);
  const int64_t tokens = x.rows / heads;
  int64_t scratch_bytes = 0, piece_tokens = tokens;
  double bytes = 0;
  bool in_floats = true;
  for (const Weight& w : weights) {
    const kernels::MatmulKernel& kernel = kernel_of(context, w, x.cols, where);
    base::require(w.rows == y.cols, where, "a weight is [{}, {}], y has {} columns", w.rows, w.cols, y.cols);
    prepared.need(kernel.form);
    scratch_bytes = std::max(scratch_bytes, scratch_of_kernel(kernel, w, tokens));
    piece_tokens = std::min(piece_tokens, tokens_a_piece(kernel.form, tokens));
    in_floats &= kernel.form == kernels::ActivationForm::floats;
    bytes += static_cast<double>(w.bytes());
  }
  const int64_t total_rows = heads * y.cols, panel = context.kernels.matmul.panel_rows;
  const int64_t piece_rows =
      std::min(in_floats && piece_tokens >= kManyTokens
                   ? rows_of_floats(context, y.cols, total_rows * tokens / piece_tokens)
                   : rows_a_piece(context, total_rows, x.cols, tokens, bytes / static_cast<double>(total_rows)),
               (y.cols + panel - 1) / panel * panel);
  const int64_t cuts = (tokens + piece_tokens - 1) / piece_tokens;
  Piece* pieces = context.arena.take<Piece>(heads * ((y.cols + piece_rows - 1) / piece_rows) * cuts);
  int64_t count = 0;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t begin = 0; begin < y.cols; begin += piece_rows)
      for (int64_t cut = 0; cut < cuts; ++cut)
        pieces[count++] = {h, begin, std::min(begin + piece_rows, y.cols), tokens * cut / cuts,
                           tokens * (cut + 1) / cuts};
  const WorkerScratch scratch(context, scratch_bytes);
  const WorkerScratch pointers(context, piece_tokens * static_cast<int64_t>(sizeof(const std::byte*)));

  const int64_t threads = context.pool.threads();
  const auto rows_of = [&](const Piece& piece) {
    return weights[static_cast<size_t>(piece.target)].row_range(piece.begin, piece.end);
  };
  run_pieces(context, prepared, count, [&](int64_t index, int worker) {
    const Piece& piece = pieces[index];
    const Weight w = rows_of(piece);
    const kernels::MatmulKernel& kernel = kernel_of(context, w, x.cols, where);
    const std::byte* const* all = prepared.rows(kernel.form);
    const std::byte** chosen = reinterpret_cast<const std::byte**>(pointers.of(worker));
    const int64_t rows = piece.token_end - piece.token_begin;
    for (int64_t t = 0; t < rows; ++t) chosen[t] = all[(piece.token_begin + t) * heads + piece.target];
    const Matrix part =
        of_head(y, heads, piece.target).row_range(piece.token_begin, piece.token_end).col_range(piece.begin, piece.end);
    const Weight next = index + threads < count ? rows_of(pieces[index + threads]) : Weight();
    run_kernel(context, kernel, w, chosen, rows, part, scratch.of(worker), next);
  });
}

}  // namespace coterie::ops
