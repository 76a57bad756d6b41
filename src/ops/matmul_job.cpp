#include "ops/matmul_job.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace coterie::ops {

using base::ErrorKind;
using kernels::ActivationForm;

const kernels::MatmulKernel& kernel_of(const Context& context, const tensor::Weight& w, int64_t cols,
                                       std::string_view where) {
  base::require(static_cast<bool>(w) || w.rows == 0, where, "a weight [{}, {}] without data", w.rows, w.cols);
  base::require(w.cols == cols, where, "x has {} columns, the weight is [{}, {}]", cols, w.rows, w.cols);
  base::require(w.cols % tensor::info(w.dtype).block_values == 0, where,
                "rows of {} values do not divide into {} blocks", w.cols, tensor::name(w.dtype));
  const kernels::MatmulKernels& all = context.kernels.matmul;
  const bool bf16 = context.precision == Precision::bf16;
  const auto& table = context.precision == Precision::f32 ? all.exact : all.fast;
  const kernels::MatmulKernel& kernel = bf16 ? all.bf16 : table[static_cast<size_t>(w.dtype)];
  if (bf16 && kernel.run == nullptr)
    throw base::Error(ErrorKind::unsupported, std::string(where),
                      fmt::format("bf16 was asked for, which the {} kernels do not have", context.kernels.isa),
                      "it needs a CPU with AVX512_BF16; train in f32 otherwise");
  if (bf16 && w.dtype != tensor::DType::f32)
    base::fail(ErrorKind::unsupported, where, "bf16 computes with weights of f32, not {}", tensor::name(w.dtype));
  if (kernel.run == nullptr)
    base::fail(ErrorKind::unsupported, where, "{} is not a weight format", tensor::name(w.dtype));
  base::require(!w.columns || kernel.form == ActivationForm::floats, where,
                "{} with its columns in another order than the inputs", tensor::name(w.dtype));
  base::require(!w.repacked || kernel.repacked.count > 0, where, "repacked rows of {}, which these kernels do not read",
                tensor::name(w.dtype));
  return kernel;
}

void PreparedRows::need(ActivationForm form) {
  const size_t i = static_cast<size_t>(form);
  if (rows_[i] != nullptr || x_.rows == 0) return;
  if (given_ && form == given_form_) {
    rows_[i] = given_;
    return;
  }
  base::require(!given_ || given_form_ == ActivationForm::floats, "matmul",
                "rows were quantised in another form than a kernel reads");
  const std::byte** const rows = context_.arena.take<const std::byte*>(x_.rows);
  rows_[i] = rows;
  if (form == ActivationForm::floats) {
    for (int64_t r = 0; r < x_.rows; ++r) rows[r] = reinterpret_cast<const std::byte*>(x_.row(r));
    return;
  }
  const int64_t bytes = row_bytes(form, x_.cols);
  blocks_[i] = context_.arena.take<std::byte>(bytes * x_.rows);
  for (int64_t r = 0; r < x_.rows; ++r) rows[r] = blocks_[i] + r * bytes;
  fills_ = true;
}

void PreparedRows::fill_rows(int64_t begin, int64_t end) {
  const kernels::MatmulKernels& kernels = context_.kernels.matmul;
  const size_t form32 = static_cast<size_t>(ActivationForm::blocks32);
  const size_t form256 = static_cast<size_t>(ActivationForm::blocks256);
  for (int64_t r = begin; r < end; ++r) {
    if (blocks_[form32] != nullptr) {
      kernels.quantise32(values(r), x_.cols,
                         reinterpret_cast<kernels::ActivationBlock32*>(const_cast<std::byte*>(rows_[form32][r])));
    }
    if (blocks_[form256] != nullptr) {
      kernels.quantise256(values(r), x_.cols,
                          reinterpret_cast<kernels::ActivationBlock256*>(const_cast<std::byte*>(rows_[form256][r])));
    }
  }
}

void PreparedRows::fill_all() { fill_rows(0, x_.rows); }

void PreparedRows::fill(int worker) {
  const int64_t threads = context_.pool.threads();
  fill_rows(x_.rows * worker / threads, x_.rows * (worker + 1) / threads);
  context_.pool.barrier();
}

int64_t rows_a_piece(const Context& context, int64_t total_rows, int64_t cols, int64_t tokens, double bytes_a_row) {
  const int64_t panel = context.kernels.matmul.panel_rows;
  const int64_t threads = context.pool.threads();
  if (threads == 1 && tokens == 1) return std::max<int64_t>(total_rows, 1);
  // A piece is worth handing out from about 10 us on: 100 kB read or a million multiply-adds.
  const double row_work = std::max(bytes_a_row / 1e5, static_cast<double>(cols * tokens) / 1e6);
  const int64_t worth = static_cast<int64_t>(1 / std::max(row_work, 1e-9)) + 1;
  const int64_t even = (total_rows + 8 * threads - 1) / (8 * threads);
  // Many tokens: a piece's outputs should stay in the second cache.
  const int64_t fits = std::max<int64_t>(65536 / std::max<int64_t>(tokens, 1), 4 * panel);
  int64_t rows = std::min(std::max(worth, even), fits);
  rows = std::min(rows, std::max<int64_t>((total_rows + threads - 1) / threads, 1));
  return (rows + panel - 1) / panel * panel;
}

int64_t rows_of_run(const Context& context, int64_t total_rows, double bytes_a_row) {
  constexpr double kRun = 512 << 10;
  const int64_t panel = context.kernels.matmul.panel_rows, threads = context.pool.threads();
  if (threads == 1) return std::max<int64_t>(total_rows, 1);
  const int64_t runs = std::llround(bytes_a_row * static_cast<double>(total_rows) / kRun);
  const int64_t pieces = std::clamp(runs / threads, int64_t{1}, int64_t{8}) * threads;
  const int64_t step = total_rows >= 4 * panel * pieces ? 4 * panel : panel;  // panels that divide into four streams
  return std::max((total_rows / pieces + step / 2) / step * step, panel);
}

int64_t rows_of_floats(const Context& context, int64_t rows, int64_t total_rows) {
  constexpr int64_t kMost = 256;
  const int64_t tile = 2 * int64_t{context.kernels.matmul.panel_rows};
  const int64_t parts = (rows + kMost - 1) / kMost, share = total_rows / (4 * int64_t{context.pool.threads()});
  const int64_t even = std::min((rows + parts - 1) / parts, std::max<int64_t>(share, 1));
  return (even + tile - 1) / tile * tile;
}

int64_t tokens_a_piece(ActivationForm form, int64_t tokens) {
  constexpr int64_t kMost = 256;
  if (form != ActivationForm::floats || tokens <= kMost) return std::max<int64_t>(tokens, 1);
  const int64_t pieces = (tokens + kMost - 1) / kMost;
  return (tokens + pieces - 1) / pieces;
}

kernels::MatmulTask task_of(const Context& context, const tensor::Weight& w, const std::byte* const* x, int64_t tokens,
                            tensor::Matrix y, std::byte* scratch, const tensor::Weight& next) {
  kernels::MatmulTask task;
  task.weights = w.data, task.dtype = w.dtype, task.row_stride = w.row_stride, task.rows = w.rows, task.cols = w.cols;
  task.repacked = w.repacked, task.read_ahead = context.read_ahead;
  task.x = x, task.tokens = tokens;
  task.y = y.data, task.y_stride = y.stride;
  task.scratch = scratch;
  task.next = next.data, task.next_bytes = next.rows * next.row_stride;
  return task;
}

namespace {
constexpr int64_t kOrderedTokens = 64;  // rows of x copied at a time

int64_t aligned(int64_t bytes) { return (bytes + tensor::kAlignment - 1) / tensor::kAlignment * tensor::kAlignment; }
int64_t pointer_bytes(int64_t tokens) { return aligned(tokens * static_cast<int64_t>(sizeof(const std::byte*))); }
int64_t row_bytes_of_x(const tensor::Weight& w) { return aligned(w.cols * static_cast<int64_t>(sizeof(float))); }
}  // namespace

int64_t scratch_of_kernel(const kernels::MatmulKernel& kernel, const tensor::Weight& w, int64_t tokens) {
  const int64_t own = kernel.scratch_bytes(w.dtype, w.cols);
  if (!w.columns) return own;
  const int64_t copied = std::min(tokens, kOrderedTokens);
  return pointer_bytes(copied) + copied * row_bytes_of_x(w) + own;
}

void run_kernel(const Context& context, const kernels::MatmulKernel& kernel, const tensor::Weight& w,
                const std::byte* const* x, int64_t tokens, tensor::Matrix y, std::byte* scratch,
                const tensor::Weight& next) {
  if (!w.columns) return kernel.run(task_of(context, w, x, tokens, y, scratch, next));
  const int64_t most = std::min(tokens, kOrderedTokens);
  const std::byte** const rows = reinterpret_cast<const std::byte**>(scratch);
  std::byte* const copies = scratch + pointer_bytes(most);
  for (int64_t t = 0; t < most; ++t) rows[t] = copies + t * row_bytes_of_x(w);
  for (int64_t begin = 0; begin < tokens; begin += most) {
    const int64_t count = std::min(most, tokens - begin);
    for (int64_t t = 0; t < count; ++t) {
      const auto* from = reinterpret_cast<const float*>(x[begin + t]);
      auto* to = reinterpret_cast<float*>(copies + t * row_bytes_of_x(w));
      for (int64_t c = 0; c < w.cols; ++c) to[c] = from[w.columns[c]];
    }
    kernel.run(
        task_of(context, w, rows, count, y.row_range(begin, begin + count), copies + most * row_bytes_of_x(w), next));
  }
}

void run_pieces(Context& context, PreparedRows& x, int64_t count,
                base::FunctionRef<void(int64_t index, int worker)> body) {
  if (count == 0) return;
  const bool alone = context.pool.threads() == 1 || count == 1;  // one piece is not worth waking the others
  const bool prepared = x.small() || alone;
  if (prepared) x.fill_all();
  if (alone) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  std::atomic<int64_t> next = 0;
  context.pool.run([&](int worker) {
    if (!prepared) x.fill(worker);
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i, worker);
  });
}

WorkerScratch::WorkerScratch(Context& context, int64_t bytes) {
  // One line more than needed, so that workers never share one and do not all start on the same cache set.
  stride_ = (bytes + tensor::kAlignment - 1) / tensor::kAlignment * tensor::kAlignment + tensor::kAlignment;
  data_ = context.arena.take<std::byte>(stride_ * context.pool.threads());
}

void fill_zero(tensor::Matrix y) {
  for (int64_t t = 0; t < y.rows; ++t) std::fill_n(y.row(t), y.cols, 0.0f);
}

void add_bias(tensor::Matrix y, const float* bias) {
  if (bias == nullptr) return;
  for (int64_t t = 0; t < y.rows; ++t) {
    float* row = y.row(t);
    for (int64_t i = 0; i < y.cols; ++i) row[i] += bias[i];
  }
}

}  // namespace coterie::ops
