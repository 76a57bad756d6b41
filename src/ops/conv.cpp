#include "ops/conv.h"

#include <algorithm>

#include "ops/gradients.h"
#include "ops/sequences.h"

namespace coterie::ops {

using base::require;

namespace {

// The last width - 1 inputs of the old state followed by x. Ascending, so that a row is read before it is written.
void keep_history(int64_t width, tensor::ConstMatrix x, const Recurrence& s, int64_t begin, int64_t end) {
  const int64_t before = width - 1;
  for (int64_t i = 0; i < before; ++i) {
    const int64_t at = s.rows - before + i;
    const float* from = at < 0 ? s.state + (before + at) * x.cols : x.row(s.first_row + at);
    std::copy(from + begin, from + end, s.state + i * x.cols + begin);
  }
}

}  // namespace

void causal_conv1d(Context& context, const Convolution& convolution, tensor::ConstMatrix x,
                   std::span<const Recurrence> sequences, tensor::Matrix y) {
  const int64_t width = convolution.width, channels = x.cols;
  require(x.rows == y.rows && x.cols == y.cols && x.data != y.data, "causal_conv1d", "x is [{}, {}], y is [{}, {}]",
          x.rows, x.cols, y.rows, y.cols);
  require(width >= 1 && convolution.taps, "causal_conv1d", "{} taps", convolution.taps ? width : 0);
  check_sequences("causal_conv1d", sequences, x.rows, width > 1);
  if (channels == 0) return;
  if (context.tape) record_conv(*context.tape, convolution, x, sequences, y);

  // A piece of tokens is still in the first-level cache when the activation comes.
  constexpr int64_t kTokens = 16, kChannels = 256;
  for_channel_pieces(
      context, sequences, channels, channels, kChannels, width, [&](const Recurrence& s, int64_t begin, int64_t end) {
        kernels::ConvolutionTile tile;
        tile.x = x.row(s.first_row) + begin, tile.x_stride = x.stride;
        tile.y = y.row(s.first_row) + begin, tile.y_stride = y.stride;
        tile.history = s.state + begin, tile.history_stride = channels;
        tile.taps = convolution.taps + begin, tile.taps_stride = channels;
        tile.bias = convolution.bias ? convolution.bias + begin : nullptr;
        tile.channels = end - begin, tile.width = width;
        for (; tile.begin < s.rows; tile.begin = tile.end) {
          tile.end = std::min(tile.begin + kTokens, s.rows);
          context.kernels.ssm.convolve(tile);
          for (int64_t t = tile.begin; t < tile.end; ++t)
            context.kernels.vector.activate(convolution.activation, tile.y + t * y.stride, nullptr, end - begin);
        }
        keep_history(width, x, s, begin, end);
      });
}

}  // namespace coterie::ops
