#include <algorithm>
#include <vector>

#include "ops/gradients.h"
#include "ops/products.h"
#include "ops/rows.h"

// y and x are the memory that the op wrote and read; where an op works in place the two are one, and its step turns
// the gradient of the new value into that of the old.
namespace coterie::ops {

void record_add(Tape& tape, ConstMatrix x, Matrix y, float scale) {
  tape.record({y}, [x, y, scale](Reverse& back) {
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        back.context().kernels.vector.add_scaled(dy.row(r), scale, dx.row(r), x.cols);
    });
  });
}

void record_copy(Tape& tape, ConstMatrix x, std::span<const int64_t> rows, Matrix y) {
  const int64_t* from = rows.empty() ? nullptr : tape.save(rows);
  tape.record({y}, [x, from, y](Reverse& back) {
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    for (int64_t r = 0; r < y.rows; ++r) {
      back.context().kernels.vector.add_scaled(dy.row(r), 1, dx.row(from ? from[r] : r), y.cols);
      std::fill_n(dy.row(r), y.cols, 0.0f);
    }
  });
}

void record_scale(Tape& tape, Matrix x, float factor) {
  tape.record({x}, [x, factor](Reverse& back) { scale(back.context(), back.gradient(x), factor); });
}

// d/dx cap tanh(x / cap) = 1 - tanh²(x / cap)
void record_softcap(Tape& tape, Matrix x, float cap) {
  const ConstMatrix saved = tape.save(x);
  tape.record({x}, [x, saved, cap](Reverse& back) {
    const Matrix dx = back.gradient(x), y = back.context().arena.matrix(x.rows, x.cols);
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        std::copy_n(saved.row(r), x.cols, y.row(r));
        back.context().kernels.vector.softcap(y.row(r), cap, x.cols);
        for (int64_t i = 0; i < x.cols; ++i) {
          const float t = y.row(r)[i] / cap;
          dx.row(r)[i] *= 1 - t * t;
        }
      }
    });
  });
}

// Nothing passes where the limit holds, as torch.clamp has it; at the limit itself it does.
void record_clamp(Tape& tape, Matrix x, float limit) {
  const ConstMatrix saved = tape.save(x);
  tape.record({x}, [x, saved, limit](Reverse& back) {
    const Matrix dx = back.gradient(x);
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t i = 0; i < x.cols; ++i)
          if (!(saved.row(r)[i] >= -limit && saved.row(r)[i] <= limit)) dx.row(r)[i] = 0;
    });
  });
}

// y += s(gate) x: dx += s dy, dgate += s (1 - s) dy·x
void record_add_gated(Tape& tape, ConstMatrix x, ConstMatrix gate, Matrix y) {
  const ConstMatrix saved = tape.save(x), open = tape.save(gate);
  tape.record({y}, [x, gate, saved, open, y](Reverse& back) {
    const Matrix dx = back.gradient(x), dgate = back.gradient(gate), dy = back.gradient(y);
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float s;
        back.context().kernels.vector.sigmoid(open.row(r), &s, 1);
        double along = 0;
        for (int64_t i = 0; i < x.cols; ++i)
          along += static_cast<double>(dy.row(r)[i]) * static_cast<double>(saved.row(r)[i]);
        dgate.row(r)[0] += s * (1 - s) * static_cast<float>(along);
        back.context().kernels.vector.add_scaled(dy.row(r), s, dx.row(r), x.cols);
      }
    });
  });
}

// g = act(g) x
void record_activate(Tape& tape, kernels::Activation activation, Matrix x) {
  const ConstMatrix saved = tape.save(x);
  tape.record({x}, [activation, x, saved](Reverse& back) {
    const Matrix dx = back.gradient(x);
    const Matrix value = back.context().arena.matrix(x.rows, x.cols),
                 slope = back.context().arena.matrix(x.rows, x.cols);
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        back.context().kernels.vector.activation_slope(activation, saved.row(r), value.row(r), slope.row(r), x.cols);
        for (int64_t i = 0; i < x.cols; ++i) dx.row(r)[i] *= slope.row(r)[i];
      }
    });
  });
}

void record_gate(Tape& tape, kernels::Activation activation, Matrix gate, ConstMatrix x) {
  const ConstMatrix saved_gate = tape.save(gate), saved = tape.save(x);
  tape.record({gate}, [activation, gate, x, saved_gate, saved](Reverse& back) {
    const Matrix dgate = back.gradient(gate), dx = back.gradient(x);
    const Matrix value = back.context().arena.matrix(x.rows, x.cols),
                 slope = back.context().arena.matrix(x.rows, x.cols);
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float *const dg = dgate.row(r), *const d = dx.row(r), *const v = value.row(r), *const s = slope.row(r);
        back.context().kernels.vector.activation_slope(activation, saved_gate.row(r), v, s, x.cols);
        for (int64_t i = 0; i < x.cols; ++i) {
          d[i] += dg[i] * v[i];
          dg[i] *= s[i] * saved.row(r)[i];
        }
      }
    });
  });
}

void record_embed(Tape& tape, std::span<const int32_t> ids, const tensor::Weight& table, Matrix y, float scale) {
  const int32_t* saved = tape.save(ids);
  tape.record({y}, [saved, table, y, scale](Reverse& back) {
    const Matrix dtable = back.gradient(table), dy = back.gradient(y);
    Context& context = back.context();
    // By columns: a token that comes twice is added up by one thread, in order.
    if (dtable.data)
      context.pool.split(y.cols, 16, [&](int64_t begin, int64_t end, int) {
        for (int64_t r = 0; r < y.rows; ++r)
          context.kernels.vector.add_scaled(dy.row(r) + begin, scale, dtable.row(saved[r]) + begin, end - begin);
      });
    clear(context, dy);
  });
}

// The transpose of a rotation is the rotation back; the magnitude stays.
void record_rope(Tape& tape, const RopeTable& table, std::span<const int32_t> positions, int64_t heads, Matrix x) {
  const std::span<const int32_t> saved(tape.save(positions), positions.size());
  RopeTable back_table = table;
  for (float& f : back_table.frequency) f = -f;
  tape.record({x}, [back_table = std::move(back_table), saved, heads, x](Reverse& back) {
    rope(back.context(), back_table, saved, heads, back.gradient(x));
  });
}

// y = f x by heads: df += x·dy, dx = f dy
void record_scale_heads(Tape& tape, ConstMatrix factor, Matrix x) {
  const ConstMatrix saved_factor = tape.save(factor), saved = tape.save(x);
  tape.record({x}, [factor, x, saved_factor, saved](Reverse& back) {
    const Matrix dfactor = back.gradient(factor), dx = back.gradient(x);
    const int64_t width = x.cols / factor.cols;
    for_rows(back.context(), x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t h = 0; h < factor.cols; ++h) {
          float* const d = dx.row(r) + h * width;
          const float* const in = saved.row(r) + h * width;
          double along = 0;
          for (int64_t i = 0; i < width; ++i) along += static_cast<double>(d[i]) * static_cast<double>(in[i]);
          dfactor.row(r)[h] += static_cast<float>(along);
          back.context().kernels.vector.scale(d, saved_factor.row(r)[h], width);
        }
    });
  });
}

}  // namespace coterie::ops
