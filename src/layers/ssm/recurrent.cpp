#include "layers/ssm/recurrent.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace coterie::layers {

int64_t state_floats(const MambaSpec& spec) { return (spec.conv_width - 1 + spec.states) * spec.inner; }

int64_t state_floats(const Mamba2Spec& spec) {
  return (spec.conv_width - 1) * spec.conv_channels() + spec.inner() * spec.states;
}

int64_t state_floats(const DeltaRuleSpec& spec) {
  return (spec.conv_width - 1) * spec.conv_channels() + spec.value_width() * spec.key_dim;
}

int64_t state_floats(const ShortConvSpec& spec, int64_t width) { return (spec.conv_width - 1) * width; }

int64_t state_floats(const LightningSpec& spec) { return spec.width() * spec.head_dim; }

namespace {

void copy_state(ops::Context& context, const float* from, int64_t floats, float* to) {
  constexpr int64_t kParallel = 1 << 15, kGrain = 1 << 12;  // below the former the pool costs more than it saves
  if (floats < kParallel) {
    std::copy_n(from, floats, to);
    return;
  }
  context.pool.split(floats, kGrain,
                     [&](int64_t begin, int64_t end, int) { std::copy_n(from + begin, end - begin, to + begin); });
}

}  // namespace

void run_recurrence(const Batch& batch, int64_t layer, const StatePart& part,
                    base::FunctionRef<void(std::span<const ops::Recurrence> sequences)> run) {
  std::vector<ops::Recurrence> now;
  std::vector<const SequenceRows*> row_by_row;
  int64_t most = 0;
  for (const SequenceRows& s : batch.sequences) {
    const std::span<float> state = s.step.state->recurrent(layer);
    base::require(static_cast<int64_t>(state.size()) == part.size, "recurrent state",
                  "{} floats in layer {}, expected {}", state.size(), layer, part.size);
    const bool keeps = s.rows > 1 && !s.step.state->recurrent_after(layer, 0).empty();
    if (keeps) row_by_row.push_back(&s), most = std::max(most, s.rows);
    now.push_back({s.first_row, keeps ? 1 : s.rows, state.data() + part.offset});
  }
  run(now);
  for (int64_t row = 0; row < most; ++row) {
    if (row > 0) {
      now.clear();
      for (const SequenceRows* s : row_by_row)
        if (row < s->rows) now.push_back({s->first_row + row, 1, s->step.state->recurrent(layer).data() + part.offset});
      run(now);
    }
    for (const SequenceRows* s : row_by_row) {
      if (row + 1 >= s->rows) continue;
      const std::span<float> after = s->step.state->recurrent_after(layer, row);
      copy_state(batch.context, s->step.state->recurrent(layer).data() + part.offset, part.floats,
                 after.data() + part.offset);
    }
  }
}

tensor::Buffer<float> transposed(const float* values, int64_t rows, int64_t cols) {
  tensor::Buffer<float> result(rows * cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) result.data()[c * rows + r] = values[r * cols + c];
  return result;
}

void make_decay(const Vector& a_log, float* a) {
  for (int64_t i = 0; i < a_log.values.size(); ++i)
    a[i] = a_log.minus_exp ? a_log.values.data()[i] : -std::exp(a_log.values.data()[i]);
}

void record_derived(ops::Tape& tape, const Vector& from, int64_t rows, int64_t cols, const float* by_columns,
                    bool decay) {
  tape.outside(by_columns, rows * cols);
  tape.record({}, [&from, rows, cols, by_columns, decay](ops::Reverse& back) {
    float* const given = back.outside(by_columns, rows * cols);
    float* const into = back.gradient(from.data());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        // A = -exp(A_log): its slope is A itself.
        const float slope = decay && !from.minus_exp ? by_columns[c * rows + r] : 1.0f;
        if (into) into[r * cols + c] += slope * given[c * rows + r];
        given[c * rows + r] = 0;
      }
  });
}

}  // namespace coterie::layers
