#include <algorithm>
#include <vector>

#include "ops/gradients.h"
#include "ops/products.h"

namespace coterie::ops {

namespace {

constexpr int64_t kChannels = 64;  // of a task

/// Rows of one sequence, a piece of channels, with what came before them: row t of it is `before(t)` for t < 0.
struct History {
  const float* state;  // [width - 1, C] as it was
  ConstMatrix x;       // the batch's
  int64_t first_row, width, channels;

  const float* row(int64_t t) const { return t < 0 ? state + (width - 1 + t) * channels : x.row(first_row + t); }
};

}  // namespace

// z[t] = bias + Σ_k taps[k] x[t - width + 1 + k], y = act(z): z is computed again. A state passes the last inputs on,
// and with them their gradients.
void record_conv(Tape& tape, const Convolution& convolution, ConstMatrix x, std::span<const Recurrence> given,
                 Matrix y) {
  const ConstMatrix saved = tape.save(x);
  const int64_t channels = x.cols, width = convolution.width, before = (width - 1) * channels;
  std::vector<Recurrence> sequences(given.begin(), given.end());
  std::vector<const float*> states;
  for (const Recurrence& s : sequences)
    states.push_back(tape.save(std::span<const float>(s.state, static_cast<size_t>(s.state ? before : 0))));
  tape.record({y}, [convolution, x, saved, sequences = std::move(sequences), states = std::move(states), y, channels,
                    width, before](Reverse& back) {
    Context& context = back.context();
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    float *const dtaps = back.gradient(convolution.taps), *const dbias = back.gradient(convolution.bias);
    std::vector<float*> dstates;
    int64_t longest = 0;
    for (const Recurrence& s : sequences) {
      dstates.push_back(s.state && before > 0 ? back.outside(s.state, before) : nullptr);
      longest = std::max(longest, s.rows);
    }
    const int64_t pieces = (channels + kChannels - 1) / kChannels;
    const int64_t scratch = (longest + 3) * kChannels;
    float* const memory = context.arena.take<float>(context.pool.threads() * scratch);
    // A task has its channels of all sequences: what is added to a tap is added in one order.
    context.pool.each(pieces, [&](int64_t piece, int worker) {
      const int64_t at = piece * kChannels, n = std::min(kChannels, channels - at);
      float *const z = memory + worker * scratch, *const value = z + kChannels, *const dz = value + 2 * kChannels;
      float* const slope = value + kChannels;
      for (size_t i = 0; i < sequences.size(); ++i) {
        const Recurrence& s = sequences[i];
        const History history{states[i], saved, s.first_row, width, channels};
        for (int64_t t = 0; t < s.rows; ++t) {
          for (int64_t c = 0; c < n; ++c) z[c] = convolution.bias ? convolution.bias[at + c] : 0.0f;
          for (int64_t k = 0; k < width; ++k) {
            const float *const in = history.row(t - width + 1 + k) + at, *const tap =
                                                                             convolution.taps + k * channels + at;
            for (int64_t c = 0; c < n; ++c) z[c] += tap[c] * in[c];
          }
          context.kernels.vector.activation_slope(convolution.activation, z, value, slope, n);
          float *const dout = dy.row(s.first_row + t) + at, *const d = dz + t * kChannels;
          for (int64_t c = 0; c < n; ++c) d[c] = dout[c] * slope[c];
          std::fill_n(dout, n, 0.0f);
          for (int64_t c = 0; dbias && c < n; ++c) dbias[at + c] += d[c];
          for (int64_t k = 0; dtaps && k < width; ++k) {
            const float* const in = history.row(t - width + 1 + k) + at;
            for (int64_t c = 0; c < n; ++c) dtaps[k * channels + at + c] += d[c] * in[c];
          }
        }
        // Row t of the inputs, t from -(width - 1) on: what reads it, and, for the last ones, the state it is left in.
        std::vector<float> dstate(static_cast<size_t>((width - 1) * n));
        float* const left = dstates[i];
        for (int64_t j = 0; left && j < width - 1; ++j)
          std::copy_n(left + j * channels + at, n, dstate.data() + j * n),
              std::fill_n(left + j * channels + at, n, 0.0f);
        for (int64_t t = 1 - width; t < s.rows; ++t) {
          float* const into = t >= 0 ? dx.row(s.first_row + t) + at
                              : left ? left + (width - 1 + t) * channels + at
                                     : nullptr;
          if (!into) continue;
          for (int64_t k = 0; k < width; ++k) {
            const int64_t reader = t + width - 1 - k;
            if (reader < 0 || reader >= s.rows) continue;
            const float *const d = dz + reader * kChannels, *const tap = convolution.taps + k * channels + at;
            for (int64_t c = 0; c < n; ++c) into[c] += tap[c] * d[c];
          }
          const int64_t slot = t - (s.rows - (width - 1));
          for (int64_t c = 0; slot >= 0 && c < n; ++c) into[c] += dstate[static_cast<size_t>(slot * n + c)];
        }
      }
    });
  });
}

}  // namespace coterie::ops
