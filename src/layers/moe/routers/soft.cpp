#include "layers/moe/routers/soft.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "layers/moe/routers/kind.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"

namespace coterie::layers {

SoftRouter::SoftRouter(const RouterSpec& spec, int64_t width) : spec_(spec), width_(width), unit_(width) {
  std::fill_n(unit_.data(), width, static_cast<float>(1 / std::sqrt(static_cast<double>(width))));
}

void SoftRouter::visit(TensorVisitor& visitor, const std::string& path) {
  visitor.matrix({path, Place::router, true}, spec_.experts * spec_.slots, width_, slots_);
  visitor.vector({path + ".scale", Place::router}, 1, scale_);
}

SoftRouter::Mixed SoftRouter::to_slots(const Batch& batch, tensor::ConstMatrix x) const {
  ops::Context context = batch.context;
  context.precision = ops::Precision::f32;
  const int64_t slots = spec_.experts * spec_.slots;
  Mixed mixed;
  for (const SequenceRows& s : batch.sequences) mixed.sequences.push_back({s.first_row, s.rows});
  const int64_t rows = std::ssize(mixed.sequences) * slots;
  mixed.logits = context.arena.matrix(x.rows, slots), mixed.x = context.arena.matrix(rows, x.cols);
  const tensor::Matrix direction = context.arena.matrix(x.rows, x.cols);
  constexpr float kEpsilon = 1e-12f;  // for a token that is zero
  ops::rms_norm(context, x, unit_.data(), kEpsilon, direction);
  ops::matmul(context, direction, slots_, nullptr, mixed.logits);
  ops::scale_by_norm(context, slots_, scale_.data(), mixed.logits);
  ops::mix_tokens(context, mixed.logits, x, mixed.sequences, mixed.x);

  std::vector<int32_t> ids(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(i % slots / spec_.slots);
  mixed.plan = ops::make_plan(ids, std::vector<float>(ids.size(), 1.0f), rows, 1, spec_.experts);
  return mixed;
}

void SoftRouter::to_tokens(const Batch& batch, const Mixed& mixed, tensor::ConstMatrix outputs,
                           tensor::Matrix y) const {
  ops::mix_slots(batch.context, mixed.logits, outputs, mixed.sequences, y);
}

namespace {

void check_soft(const RouterSpec& spec, std::string_view where) {
  const RouterSpec usual;
  if (spec.experts_per_token != spec.experts)
    base::fail(base::ErrorKind::bad_input, where,
               "under Soft MoE every token is mixed into every expert: experts_per_token is {}, expected {}",
               spec.experts_per_token, spec.experts);
  if (spec.score != usual.score || spec.order != usual.order || spec.renormalise || spec.bias || spec.selection_bias ||
      spec.groups != 1 || spec.scale != 1 || spec.combine != usual.combine || spec.noise || spec.jitter > 0 ||
      spec.capacity || spec.hidden > 0)
    base::fail(base::ErrorKind::bad_input, where,
               "Soft MoE has nothing but its slots: no score, no biases, no groups, no scale, no noise, no jitter, no "
               "capacity, no hidden layer");
}

std::string describe_soft(const RouterSpec&, const std::string&) {
  return "an expert's slot reads the tokens of a sequence by softmax(h) over them; a token gets the slots' outputs by "
         "softmax(h) over them (not causal)";
}

}  // namespace

extern const RouterKind kSoft;
const RouterKind kSoft = {.name = "soft", .causal = false, .even = true, .check = check_soft, .formula = describe_soft};

}  // namespace coterie::layers
