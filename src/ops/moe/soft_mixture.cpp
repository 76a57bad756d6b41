#include "ops/moe/soft_mixture.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/log_sum_exp.h"
#include "ops/rows.h"
#include "ops/tape.h"

namespace coterie::ops {

using tensor::ConstMatrix;
using tensor::Matrix;

namespace {

double norm_of(const tensor::Weight& slots, int64_t p) {
  base::require(!slots.repacked, "soft mixture", "repacked rows of slots, whose lengths are taken row by row");
  const auto* row = reinterpret_cast<const float*>(slots.row(p));
  double squares = 0;
  for (int64_t i = 0; i < slots.cols; ++i) squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  return std::sqrt(squares);
}

/// softmax of `logits` down each column (over the tokens of a sequence) or along each row (over the slots).
void shares(ConstMatrix logits, bool down, Matrix out) {
  if (!down) {
    for (int64_t n = 0; n < logits.rows; ++n) {
      const double total = log_sum_exp(logits.row(n), logits.cols);
      for (int64_t p = 0; p < logits.cols; ++p)
        out.row(n)[p] = static_cast<float>(std::exp(static_cast<double>(logits.row(n)[p]) - total));
    }
    return;
  }
  std::vector<float> column(static_cast<size_t>(logits.rows));
  for (int64_t p = 0; p < logits.cols; ++p) {
    for (int64_t n = 0; n < logits.rows; ++n) column[static_cast<size_t>(n)] = logits.row(n)[p];
    const double total = log_sum_exp(column.data(), logits.rows);
    for (int64_t n = 0; n < logits.rows; ++n)
      out.row(n)[p] = static_cast<float>(std::exp(static_cast<double>(logits.row(n)[p]) - total));
  }
}

/// A mixture: rows of `to` are sums of rows of `from`, by the shares; `down` says whether to slots or to tokens.
struct Mixture {
  bool down;
  Matrix share;  // [rows of a sequence, P]
  float at(int64_t to, int64_t from) const { return down ? share.row(from)[to] : share.row(to)[from]; }
};

void mix(Context& context, const Mixture& m, ConstMatrix from, Matrix to) {
  for_rows(context, to.rows, from.rows * from.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::fill_n(to.row(r), to.cols, 0.0f);
      for (int64_t s = 0; s < from.rows; ++s)
        context.kernels.vector.add_scaled(from.row(s), m.at(r, s), to.row(r), to.cols);
    }
  });
}

/// dfrom += shareᵀ dto; dlogits += through the softmax of the shares; dto = 0.
void mix_back(Context& context, const Mixture& m, ConstMatrix from, Matrix dfrom, Matrix dto, Matrix dlogits) {
  for_rows(context, from.rows, dto.rows * from.cols, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t r = 0; r < dto.rows; ++r)
        context.kernels.vector.add_scaled(dto.row(r), m.at(r, s), dfrom.row(s), from.cols);
  });
  const Matrix dshare = context.arena.matrix(dto.rows, from.rows);
  for_rows(context, dto.rows, from.rows * from.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double along = 0;
      for (int64_t s = 0; s < from.rows; ++s) {
        double sum = 0;
        for (int64_t i = 0; i < from.cols; ++i)
          sum += static_cast<double>(dto.row(r)[i]) * static_cast<double>(from.row(s)[i]);
        dshare.row(r)[s] = static_cast<float>(sum);
        along += sum * static_cast<double>(m.at(r, s));
      }
      for (int64_t s = 0; s < from.rows; ++s)
        dshare.row(r)[s] = m.at(r, s) * (dshare.row(r)[s] - static_cast<float>(along));
      std::fill_n(dto.row(r), dto.cols, 0.0f);
    }
  });
  for (int64_t n = 0; n < dlogits.rows; ++n)
    for (int64_t p = 0; p < dlogits.cols; ++p) dlogits.row(n)[p] += m.down ? dshare.row(p)[n] : dshare.row(n)[p];
}

void run(Context& context, bool down, ConstMatrix logits, ConstMatrix x, std::span<const MixedRows> sequences,
         Matrix y) {
  const int64_t slots = logits.cols, count = std::ssize(sequences);
  base::require((down ? y : x).rows == count * slots && (down ? x.rows : y.rows) == logits.rows && x.cols == y.cols,
                "soft mixture", "logits [{}, {}], x [{}, {}], y [{}, {}], {} sequences", logits.rows, slots, x.rows,
                x.cols, y.rows, y.cols, count);
  const auto each = [down, slots](std::span<const MixedRows> all, auto f) {
    for (int64_t b = 0; b < std::ssize(all); ++b) {
      const MixedRows s = all[static_cast<size_t>(b)];
      const auto tokens = [s](auto m) { return m.row_range(s.first, s.first + s.rows); };
      const auto of_slots = [b, slots](auto m) { return m.row_range(b * slots, (b + 1) * slots); };
      f([=](auto m) { return down ? tokens(m) : of_slots(m); }, [=](auto m) { return down ? of_slots(m) : tokens(m); },
        tokens);
    }
  };
  if (context.tape) {
    Tape& tape = *context.tape;
    const ConstMatrix kept = tape.save(logits), kept_x = tape.save(x);
    const std::span<const MixedRows> kept_sequences(tape.save(sequences), sequences.size());
    tape.record({y}, [=](Reverse& back) {
      const Matrix dlogits = back.gradient(logits), dx = back.gradient(x), dy = back.gradient(y);
      each(kept_sequences, [&](auto from, auto to, auto tokens) {
        const tensor::ArenaScope scratch(back.context().arena);
        const ConstMatrix l = tokens(kept);
        const Mixture m{down, back.context().arena.matrix(l.rows, l.cols)};
        shares(l, down, m.share);
        mix_back(back.context(), m, from(kept_x), from(dx), to(dy), tokens(dlogits));
      });
    });
  }
  each(sequences, [&](auto from, auto to, auto tokens) {
    const tensor::ArenaScope scratch(context.arena);
    const ConstMatrix l = tokens(logits);
    const Mixture m{down, context.arena.matrix(l.rows, l.cols)};
    shares(l, down, m.share);
    mix(context, m, from(x), to(y));
  });
}

}  // namespace

void scale_by_norm(Context& context, const tensor::Weight& slots, const float* scale, Matrix logits) {
  base::require(slots.dtype == tensor::DType::f32 && slots.rows == logits.cols, "soft mixture",
                "slots [{}, {}] for logits [{}, {}]", slots.rows, slots.cols, logits.rows, logits.cols);
  std::vector<double> norm(static_cast<size_t>(slots.rows));
  for (int64_t p = 0; p < slots.rows; ++p) norm[static_cast<size_t>(p)] = norm_of(slots, p);
  const auto factor = static_cast<double>(scale[0]);
  if (context.tape) {
    const ConstMatrix raw = context.tape->save(logits);
    // y = s r / |φ|: dr = dy s / |φ|, ds = Σ dy r / |φ|, dφ = -Σ_n dy s r / |φ|³ φ
    context.tape->record({logits}, [=](Reverse& back) {
      const Matrix dy = back.gradient(logits), dslots = back.gradient(slots);
      float* const dscale = back.gradient(scale);
      double by_scale = 0;
      for (int64_t p = 0; p < slots.rows; ++p) {
        const double length = norm[static_cast<size_t>(p)];
        double along = 0;
        for (int64_t n = 0; n < raw.rows; ++n) {
          along += static_cast<double>(dy.row(n)[p]) * static_cast<double>(raw.row(n)[p]);
          dy.row(n)[p] = static_cast<float>(static_cast<double>(dy.row(n)[p]) * factor / length);
        }
        by_scale += along / length;
        if (!dslots.data) continue;
        const auto* row = reinterpret_cast<const float*>(slots.row(p));
        for (int64_t i = 0; i < slots.cols; ++i)
          dslots.row(p)[i] -=
              static_cast<float>(along * factor / (length * length * length) * static_cast<double>(row[i]));
      }
      if (dscale) *dscale += static_cast<float>(by_scale);
    });
  }
  for (int64_t n = 0; n < logits.rows; ++n)
    for (int64_t p = 0; p < logits.cols; ++p)
      logits.row(n)[p] =
          static_cast<float>(static_cast<double>(logits.row(n)[p]) * factor / norm[static_cast<size_t>(p)]);
}

void mix_tokens(Context& context, ConstMatrix logits, ConstMatrix x, std::span<const MixedRows> sequences, Matrix y) {
  run(context, true, logits, x, sequences, y);
}

void mix_slots(Context& context, ConstMatrix logits, ConstMatrix x, std::span<const MixedRows> sequences, Matrix y) {
  run(context, false, logits, x, sequences, y);
}

}  // namespace coterie::ops
