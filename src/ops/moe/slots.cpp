#include "ops/moe/slots.h"

#include <algorithm>

#include "base/error.h"
#include "ops/products.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

using base::require;

namespace {

int32_t token_of(const RoutingPlan& plan, int64_t slot) { return plan.slot_token[static_cast<size_t>(slot)]; }
float weight_of(const RoutingPlan& plan, int64_t slot, ByWeight by) {
  return by == ByWeight::yes ? plan.slot_weight[static_cast<size_t>(slot)] : 1.0f;
}

/// body(token, slot) for each token of [begin, end), its slots best first.
template <typename Body>
void for_slots(const RoutingPlan& plan, int64_t begin, int64_t end, const Body& body) {
  for (int64_t t = begin; t < end; ++t)
    for (int32_t c = plan.token_offset[static_cast<size_t>(t)]; c < plan.token_offset[static_cast<size_t>(t) + 1]; ++c)
      body(t, static_cast<int64_t>(plan.token_slot[static_cast<size_t>(c)]));
}

void add_products(const RoutingPlan& plan, ByWeight by, int64_t slot, const float* a, const float* b, int64_t n) {
  if (by == ByWeight::no || !plan.weight_gradient) return;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  plan.weight_gradient[slot] += static_cast<float>(sum);
}

void check(const char* op, const RoutingPlan& plan, ConstMatrix tokens, ConstMatrix slots) {
  require(tokens.rows == plan.tokens && slots.rows == plan.slots() && tokens.cols == slots.cols, op,
          "[{}, {}] by token and [{}, {}] by slot for {} tokens in {} slots", tokens.rows, tokens.cols, slots.rows,
          slots.cols, plan.tokens, plan.slots());
}

/// The backward of x to y along the slots: x has a row for each slot and y one for each token (`to_tokens`), or the
/// other way round. Rows of tokens are cut over the workers: each owns its slots.
void record(Tape& tape, const RoutingPlan& plan, ByWeight by, ConstMatrix x, Matrix y, bool to_tokens) {
  const ConstMatrix kept = by == ByWeight::yes ? tape.save(x) : ConstMatrix();
  tape.record({y}, [plan, by, kept, x, y, to_tokens](Reverse& back) {
    Context& reverse = back.context();
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    for_rows(reverse, plan.tokens, dx.cols, [&](int64_t begin, int64_t end) {
      for_slots(plan, begin, end, [&](int64_t t, int64_t s) {
        const int64_t in = to_tokens ? s : t, out = to_tokens ? t : s;
        if (by == ByWeight::yes) add_products(plan, by, s, dy.row(out), kept.row(in), kept.cols);
        reverse.kernels.vector.add_scaled(dy.row(out), weight_of(plan, s, by), dx.row(in), dx.cols);
      });
    });
    clear(reverse, dy);
  });
}

}  // namespace

void to_slots(Context& context, ConstMatrix x, const RoutingPlan& plan, ByWeight by, Matrix y) {
  check("to_slots", plan, x, y);
  if (context.tape) record(*context.tape, plan, by, x, y, false);
  for_rows(context, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      std::copy_n(x.row(token_of(plan, s)), x.cols, y.row(s));
      if (by == ByWeight::yes) context.kernels.vector.scale(y.row(s), weight_of(plan, s, by), y.cols);
    }
  });
}

void from_slots(Context& context, ConstMatrix x, const RoutingPlan& plan, ByWeight by, Matrix y) {
  check("from_slots", plan, y, x);
  if (context.tape) record(*context.tape, plan, by, x, y, true);
  for_rows(context, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) std::fill_n(y.row(t), y.cols, 0.0f);
    for_slots(plan, begin, end, [&](int64_t t, int64_t s) {
      context.kernels.vector.add_scaled(x.row(s), weight_of(plan, s, by), y.row(t), y.cols);
    });
  });
}

void add_identity(Context& context, ConstMatrix x, const RoutingPlan& plan, int64_t first, Matrix y) {
  require(x.rows == plan.tokens && y.rows == x.rows && y.cols == x.cols, "add_identity",
          "[{}, {}] and [{}, {}] for {} tokens", x.rows, x.cols, y.rows, y.cols, plan.tokens);
  if (context.tape)
    context.tape->record({y}, [plan, first, kept = context.tape->save(x), x, y](Reverse& back) {
      Context& reverse = back.context();
      const Matrix dx = back.gradient(x), dy = back.gradient(y);
      for_rows(reverse, plan.tokens, dx.cols, [&](int64_t begin, int64_t end) {
        for_slots(plan, begin, end, [&](int64_t t, int64_t s) {
          if (s < first) return;
          add_products(plan, ByWeight::yes, s, dy.row(t), kept.row(t), kept.cols);
          reverse.kernels.vector.add_scaled(dy.row(t), weight_of(plan, s, ByWeight::yes), dx.row(t), dx.cols);
        });
      });
    });
  for_rows(context, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for_slots(plan, begin, end, [&](int64_t t, int64_t s) {
      if (s >= first) context.kernels.vector.add_scaled(x.row(t), weight_of(plan, s, ByWeight::yes), y.row(t), y.cols);
    });
  });
}

void scale_rows(Context& context, Matrix x, std::span<const float> factor) {
  require(std::ssize(factor) == x.rows, "scale_rows", "{} factors for {} rows", factor.size(), x.rows);
  if (context.tape) {
    const float* const kept = context.tape->save(factor);
    context.tape->record({x}, [kept, x](Reverse& back) {
      Context& reverse = back.context();
      const Matrix dx = back.gradient(x);
      for_rows(reverse, dx.rows, dx.cols, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) reverse.kernels.vector.scale(dx.row(r), kept[r], dx.cols);
      });
    });
  }
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      context.kernels.vector.scale(x.row(r), factor[static_cast<size_t>(r)], x.cols);
  });
}

void add_to_rows(Context& context, const float* bias, Matrix x) {
  require(bias != nullptr, "add_to_rows", "no bias");
  if (context.tape)
    context.tape->record({x}, [bias, x](Reverse& back) {
      if (float* const db = back.gradient(bias)) add_column_sums(back.context(), back.gradient(x), db);
    });
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.vector.add_scaled(bias, 1, x.row(r), x.cols);
  });
}

}  // namespace coterie::ops
