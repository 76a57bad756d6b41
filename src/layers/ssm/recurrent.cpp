#include "layers/ssm/recurrent.h"

#include <cmath>

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

std::vector<ops::Recurrence> recurrences(const Batch& batch, int64_t layer, int64_t offset, int64_t size) {
  std::vector<ops::Recurrence> result;
  result.reserve(batch.sequences.size());
  for (const SequenceRows& s : batch.sequences) {
    const std::span<float> state = s.step.state->recurrent(layer);
    base::require(static_cast<int64_t>(state.size()) == size, "recurrent state", "{} floats in layer {}, expected {}",
                  state.size(), layer, size);
    result.push_back({s.first_row, s.rows, state.data() + offset});
  }
  return result;
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
