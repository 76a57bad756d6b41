#pragma once

#include <array>
#include <atomic>
#include <span>

#include "base/function_ref.h"
#include "ops/context.h"
#include "ops/moe/formed_rows.h"
#include "tensor/view.h"

// Inside the room: what matmul and grouped_matmul share. A matmul is one pool job: first the rows of x are quantised,
// then pieces (a range of a weight's rows) are handed out to whoever is free. No result depends on the cut.
namespace coterie::ops {

/// The kernel for a weight in the context's precision. Throws unsupported for a dtype that no kernel reads, internal
/// for shapes that do not fit.
const kernels::MatmulKernel& kernel_of(const Context& context, const tensor::Weight& w, int64_t cols,
                                       std::string_view where);

/// Rows of x in the forms that the kernels of a call want, as pointers. Buffers come from the context's arena.
class PreparedRows {
 public:
  PreparedRows(Context& context, tensor::ConstMatrix x) : context_(context), x_(x) {}
  /// Rows that are there in a form already: no kernel may want another of them, unless they are floats.
  PreparedRows(Context& context, const FormedRows& x)
      : context_(context), x_(nullptr, x.count(), x.cols), given_(x.rows.data()), given_form_(x.form) {}

  /// Takes the memory for this form; call for each kernel before the job starts.
  void need(kernels::ActivationForm form);
  /// Inside the job, by every worker: quantises its share, then waits for the others where there was anything to do.
  void fill(int worker);
  /// Whether the filling is so short that the caller does it before the job and spares everybody the barrier.
  bool small() const { return x_.rows * x_.cols <= kSmall || !fills_; }
  void fill_all();

  const std::byte* const* rows(kernels::ActivationForm form) const { return rows_[static_cast<size_t>(form)]; }

 private:
  static constexpr int64_t kSmall = 16384;  // values: about 2 us of one core
  void fill_rows(int64_t begin, int64_t end);

  Context& context_;
  const float* values(int64_t row) const { return given_ ? reinterpret_cast<const float*>(given_[row]) : x_.row(row); }

  tensor::ConstMatrix x_;
  const std::byte* const* given_ = nullptr;
  kernels::ActivationForm given_form_ = kernels::ActivationForm::floats;
  bool fills_ = false;  // a form is to be made
  std::array<const std::byte* const*, kernels::kActivationForms> rows_{};
  std::array<std::byte*, kernels::kActivationForms> blocks_{};
};

/// A range of rows of target `target`, for tokens [token_begin, token_end) of it.
struct Piece {
  int64_t target, begin, end, token_begin, token_end;
};

/// How many rows a piece should have so that `units` of work (rows x cols x tokens, over all targets) make enough
/// pieces for an even end and few enough that handing them out costs nothing.
int64_t rows_a_piece(const Context& context, int64_t total_rows, int64_t cols, int64_t tokens, double bytes_a_row);
/// The same for one token by repacked rows, of which a piece should be a run of half a megabyte: where each begins its
/// streams begin anew. (Emerald Rapids, 2026-12-01: the shared expert of Qwen3.5-35B-A3B, 1.2 MB, 70 us in runs of 100
/// kB and 53 so.)
int64_t rows_of_run(const Context& context, int64_t total_rows, double bytes_a_row);

inline constexpr int64_t kManyTokens = 32;  // from here on the products cost more than the reading of the weights

/// Rows of a piece for many tokens of floats: even parts of a weight of `rows` rows, whole tiles of the kernel, and for
/// each thread a few of `total_rows`, counted once for each cut of the tokens.
int64_t rows_of_floats(const Context& context, int64_t rows, int64_t total_rows);

/// Tokens of a piece: as rows of floats, more than these are read from beyond the second cache again and again.
/// (2048 tokens, 384 -> 3 x 384, Zen 4, two threads, November 2026: 150 GFLOP/s in one, 171 to 184 in eight.)
int64_t tokens_a_piece(kernels::ActivationForm form, int64_t tokens);

/// `next`: the rows that the same worker will probably read after these.
kernels::MatmulTask task_of(const Context& context, const tensor::Weight& w, const std::byte* const* x, int64_t tokens,
                            tensor::Matrix y, std::byte* scratch, const tensor::Weight& next);

/// Bytes of scratch that run_kernel needs for up to `tokens` rows of x.
int64_t scratch_of_kernel(const kernels::MatmulKernel& kernel, const tensor::Weight& w, int64_t tokens);
/// y = x · Wᵀ by the kernel of w, for rows of x in its form; `next` as of task_of. Where the columns of w lie in an
/// order of their own, the rows of x are copied in that order first (they are floats then): a pass over x for each
/// piece of w's rows.
void run_kernel(const Context& context, const kernels::MatmulKernel& kernel, const tensor::Weight& w,
                const std::byte* const* x, int64_t tokens, tensor::Matrix y, std::byte* scratch,
                const tensor::Weight& next);

/// One pool job: prepares x, then runs body(piece index, worker) for every index below `count`.
void run_pieces(Context& context, PreparedRows& x, int64_t count,
                base::FunctionRef<void(int64_t index, int worker)> body);

/// `bytes` for each worker, from the arena; worker w's part begins at w * stride().
class WorkerScratch {
 public:
  WorkerScratch(Context& context, int64_t bytes);
  std::byte* of(int worker) const { return data_ + worker * stride_; }

 private:
  std::byte* data_;
  int64_t stride_;
};

/// y = 0.
void fill_zero(tensor::Matrix y);

/// y[t, begin..end) += bias[begin..end) for each row of y; bias may be null. y holds just those columns.
void add_bias(tensor::Matrix y, const float* bias);

}  // namespace coterie::ops
