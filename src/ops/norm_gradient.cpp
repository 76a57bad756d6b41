#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/gradients.h"
#include "ops/products.h"
#include "ops/rows.h"

namespace coterie::ops {

namespace {

constexpr int64_t kBlock = 64;  // rows whose weight gradients are added up before the blocks are: never by threads

double dot(const float* a, const float* b, int64_t n) {
  double sum[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int64_t j = 0; j < 4; ++j) sum[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  for (; i < n; ++i) sum[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double total(const float* a, int64_t n) {
  double sum[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int64_t j = 0; j < 4; ++j) sum[j] += static_cast<double>(a[i + j]);
  for (; i < n; ++i) sum[0] += static_cast<double>(a[i]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// row(r, scratch [2 * cols], sums of the block [sums]) for every row, block by block; then `into` += the blocks' sums.
void for_norm_rows(Context& context, int64_t rows, int64_t cols, std::span<float* const> into,
                   base::FunctionRef<void(int64_t row, float* scratch, float* sums)> body) {
  const tensor::ArenaScope scope(context.arena);
  const int64_t blocks = (rows + kBlock - 1) / kBlock, parts = std::ssize(into);
  const Matrix sums = context.arena.matrix(blocks, parts * cols);
  const Matrix scratch = context.arena.matrix(context.pool.threads(), 2 * cols);
  const auto run = [&](int64_t b, int worker) {
    std::fill_n(sums.row(b), sums.cols, 0.0f);
    for (int64_t r = b * kBlock; r < std::min(rows, (b + 1) * kBlock); ++r) body(r, scratch.row(worker), sums.row(b));
  };
  if (rows * cols < kParallelElements)
    for (int64_t b = 0; b < blocks; ++b) run(b, 0);
  else
    context.pool.each(blocks, run);
  for (int64_t p = 0; p < parts; ++p)
    for (int64_t b = 0; into[static_cast<size_t>(p)] && b < blocks; ++b)
      context.kernels.vector.add_scaled(sums.row(b) + p * cols, 1, into[static_cast<size_t>(p)], cols);
}

}  // namespace

// y = x r w with r = (mean(x²) + eps)^-½ and w = weight + offset:
//   dx = r (g - x r² mean(g x)) with g = dy w;   dweight = Σ_n dy x r
void record_rms_norm(Tape& tape, ConstMatrix x, const RmsNormPieces& p, Matrix y) {
  const ConstMatrix saved = tape.save(x);
  tape.record({y}, [x, saved, p, y](Reverse& back) {
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    float* const dw = back.gradient(p.weight);
    const int64_t pieces = x.cols / p.width;
    const tensor::ArenaScope scope(back.context().arena);
    // Pieces that share a weight: their sums lie side by side first.
    float* const wide = back.context().arena.take<float>(x.cols);
    std::fill_n(wide, x.cols, 0.0f);
    float* const into[] = {dw ? wide : nullptr};
    for_norm_rows(back.context(), x.rows, x.cols, into, [&](int64_t r, float* scratch, float* sums) {
      float* const g = scratch;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const float* w = p.weight + piece * p.weight_step;
        const float* in = saved.row(r) + piece * p.width;
        float* dout = dy.row(r) + piece * p.width;
        float* din = dx.row(r) + piece * p.width;
        float* sum = sums + piece * p.width;
        const double n = static_cast<double>(p.width);
        const double scale = 1 / std::sqrt(dot(in, in, p.width) / n + static_cast<double>(p.eps));
        const float inverse = static_cast<float>(scale);
        for (int64_t i = 0; i < p.width; ++i) {
          g[i] = dout[i] * (w[i] + p.offset);
          sum[i] += dout[i] * in[i] * inverse;
        }
        const float along = static_cast<float>(dot(g, in, p.width) / n * scale * scale);
        std::fill_n(dout, p.width, 0.0f);
        for (int64_t i = 0; i < p.width; ++i) din[i] += inverse * (g[i] - in[i] * along);
      }
    });
    for (int64_t i = 0; dw && i < x.cols; ++i) dw[i / p.width * p.weight_step + i % p.width] += wide[i];
  });
}

// y = c r w + b with c = x - mean(x), r = (mean(c²) + eps)^-½:
//   dx = r (g - mean(g) - c r² mean(g c)) with g = dy w
void record_layer_norm(Tape& tape, ConstMatrix x, const float* weight, const float* bias, float eps, Matrix y) {
  const ConstMatrix saved = tape.save(x);
  tape.record({y}, [x, saved, weight, bias, eps, y](Reverse& back) {
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    const int64_t n = x.cols;
    float* const into[] = {back.gradient(weight), back.gradient(bias)};
    for_norm_rows(back.context(), x.rows, n, into, [&](int64_t r, float* scratch, float* sums) {
      float *const g = scratch, *const c = scratch + n;
      float *const dout = dy.row(r), *const din = dx.row(r);
      const double count = static_cast<double>(n);
      const float mean = static_cast<float>(total(saved.row(r), n) / count);
      for (int64_t i = 0; i < n; ++i) c[i] = saved.row(r)[i] - mean;
      const double scale = 1 / std::sqrt(dot(c, c, n) / count + static_cast<double>(eps));
      const float inverse = static_cast<float>(scale);
      for (int64_t i = 0; i < n; ++i) {
        g[i] = dout[i] * weight[i];
        sums[i] += dout[i] * c[i] * inverse;
        sums[n + i] += dout[i];
      }
      const float level = static_cast<float>(total(g, n) / count);
      const float along = static_cast<float>(dot(g, c, n) / count * scale * scale);
      std::fill_n(dout, n, 0.0f);
      for (int64_t i = 0; i < n; ++i) din[i] += inverse * (g[i] - level - c[i] * along);
    });
  });
}

}  // namespace coterie::ops
