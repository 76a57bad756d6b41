#include "ops/loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/products.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

namespace {

// Logits of a chunk, 4 MB: they are passed over a few times. For a large vocabulary it is so many rows that packing the
// head is paid for. (V 49152, D 576, a step of 1024 tokens of a model with 214M active parameters in bf16, one thread,
// Zen 4, November 2026: 9.4 s in chunks of 21 rows with the head decoded for each, 7.7 s in chunks of 128.)
constexpr int64_t kChunkLogits = 1 << 20, kLeastRows = 128, kMostRows = 1024;

// A row of logits becomes its gradient, times `weight`; returns the row's loss. `slope`: of the cap, where there is
// one.
double turn_into_gradient(const Context& context, float* logits, int64_t n, int32_t target, float weight,
                          const float* slope) {
  const kernels::VectorKernels& kernels = context.kernels.vector;
  if (target < 0) {
    std::fill_n(logits, n, 0.0f);
    return 0;
  }
  kernels.log_softmax(logits, n);
  const double loss = -static_cast<double>(logits[target]);
  kernels.exp(logits, logits, n);
  logits[target] -= 1;
  kernels.scale(logits, weight, n);
  for (int64_t i = 0; slope && i < n; ++i) logits[i] *= slope[i];
  return loss;
}

}  // namespace

double next_token_loss(Context& given, tensor::ConstMatrix hidden, const HeadShape& head,
                       std::span<const int32_t> targets, double gradient_weight) {
  const int64_t vocabulary = head.weight.rows;
  base::require(std::ssize(targets) == hidden.rows, "next_token_loss", "{} targets for {} rows", targets.size(),
                hidden.rows);
  for (const int32_t target : targets)
    base::require(target >= -1 && target < vocabulary, "next_token_loss", "target {} of a vocabulary of {}", target,
                  vocabulary);
  Tape* const tape = given.tape;
  Context context = given;
  context.tape = nullptr;
  const int64_t chunk = std::clamp(kChunkLogits / std::max<int64_t>(vocabulary, 1), kLeastRows, kMostRows);
  const Matrix gradient = tape ? tape->keep(hidden.rows, hidden.cols) : Matrix();
  Matrix head_gradient;
  float* bias_gradient = nullptr;
  if (tape) {
    Reverse back(*tape, context);
    head_gradient = back.gradient(head.weight), bias_gradient = back.gradient(head.bias);
  }
  // Decoded once where it is not f32: for bf16's products, and for the backward pass.
  const tensor::ArenaScope decoded(context.arena);
  const bool in_bf16 = context.precision == Precision::bf16;
  const ConstMatrix floats = tape || in_bf16 ? as_floats(context, head.weight) : ConstMatrix();
  const bool decodes = in_bf16 && head.weight.dtype != tensor::DType::f32;
  Weight weights =
      decodes ? Weight(reinterpret_cast<const std::byte*>(floats.data), tensor::DType::f32, floats.rows, floats.cols)
              : head.weight;
  weights.name = head.weight.name;
  double loss = 0;
  for (int64_t begin = 0; begin < hidden.rows; begin += chunk) {
    const tensor::ArenaScope scratch(context.arena);
    const int64_t end = std::min(begin + chunk, hidden.rows), rows = end - begin;
    const ConstMatrix x = hidden.row_range(begin, end);
    const Matrix logits = context.arena.matrix(rows, vocabulary);
    const Matrix slopes = head.softcap ? context.arena.matrix(rows, vocabulary) : Matrix();
    double* const losses = context.arena.take<double>(rows);
    matmul(context, x, weights, head.bias, logits);
    if (head.scale != 1) scale(context, logits, head.scale);
    if (head.softcap) softcap(context, logits, *head.softcap);
    const float weight = static_cast<float>(gradient_weight * static_cast<double>(head.scale));
    for_rows(context, rows, vocabulary, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        float* const slope = slopes.data ? slopes.row(r) : nullptr;
        for (int64_t i = 0; slope && i < vocabulary; ++i) {
          const float t = logits.row(r)[i] / *head.softcap;
          slope[i] = 1 - t * t;
        }
        losses[r] = turn_into_gradient(context, logits.row(r), vocabulary, targets[static_cast<size_t>(begin + r)],
                                       weight, slope);
      }
    });
    for (int64_t r = 0; r < rows; ++r) loss += losses[r];
    if (!tape) continue;
    Products products;
    products.add(gradient.row_range(begin, end), {{logits, nullptr, false, floats, nullptr, vocabulary}}, true);
    if (head_gradient.data) products.add(head_gradient, {{logits, nullptr, true, x, nullptr, rows}});
    products.run(context);
    if (bias_gradient) add_column_sums(context, logits, bias_gradient);
  }
  if (tape)
    tape->record({}, [hidden, gradient](Reverse& back) { add(back.context(), gradient, back.gradient(hidden)); });
  return loss;
}

}  // namespace coterie::ops
