#include "ops/scan.h"

#include <algorithm>

#include "ops/gradients.h"
#include "ops/sequences.h"

namespace coterie::ops {

using base::require;

namespace {

// Tokens that a piece of channels takes at a time: their rows of x, dt, b, c and y stay in the second-level cache
// while the states pass over them in blocks.
constexpr int64_t kTokens = 64;

void check(std::string_view where, tensor::ConstMatrix x, tensor::Matrix y, int64_t states, const ScanInputs& inputs) {
  require(x.rows == y.rows && x.cols == y.cols && x.data != y.data, where, "x is [{}, {}], y is [{}, {}]", x.rows,
          x.cols, y.rows, y.cols);
  require(states >= 1 && inputs.groups >= 1, where, "{} states in {} groups", states, inputs.groups);
  const int64_t width = (inputs.groups - 1) * inputs.group_stride + states;
  for (const tensor::ConstMatrix& m : {inputs.b, inputs.c})
    require(m.rows == x.rows && m.cols >= width, where, "inputs [{}, {}] for {} rows of {} groups and {} states",
            m.rows, m.cols, x.rows, inputs.groups, states);
}

}  // namespace

void softplus(Context& context, tensor::ConstMatrix x, const float* bias, tensor::Matrix y, float low, float high) {
  require(x.rows == y.rows && x.cols == y.cols, "softplus", "x is [{}, {}], y is [{}, {}]", x.rows, x.cols, y.rows,
          y.cols);
  require(low <= high, "softplus", "limits {} and {}", low, high);
  if (context.tape) record_softplus(*context.tape, x, bias, y, low, high);
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) context.kernels.ssm.softplus(x.row(r), bias, low, high, y.row(r), x.cols);
  });
}

void selective_scan(Context& context, const SelectiveScan& scan, tensor::ConstMatrix x, tensor::ConstMatrix dt,
                    const ScanInputs& inputs, std::span<const Recurrence> sequences, tensor::Matrix y) {
  const int64_t channels = x.cols;
  check("selective_scan", x, y, scan.states, inputs);
  check_sequences("selective_scan", sequences, x.rows, true);
  require(dt.rows == x.rows && dt.cols == channels, "selective_scan", "dt is [{}, {}], x is [{}, {}]", dt.rows, dt.cols,
          x.rows, channels);
  require(channels % inputs.groups == 0, "selective_scan", "{} channels in {} groups", channels, inputs.groups);
  require(scan.a && scan.d, "selective_scan", "no parameters");
  if (channels == 0) return;
  if (context.tape) record_selective_scan(*context.tape, scan, x, dt, inputs, sequences, y);

  constexpr int64_t kChannels = 64;
  const int64_t group = channels / inputs.groups;
  for_channel_pieces(context, sequences, channels, group, kChannels, scan.states,
                     [&](const Recurrence& s, int64_t begin, int64_t end) {
                       const int64_t column = begin / group * inputs.group_stride;
                       kernels::SelectiveScanTile tile;
                       tile.x_stride = x.stride, tile.dt_stride = dt.stride, tile.y_stride = y.stride;
                       tile.b_stride = inputs.b.stride, tile.c_stride = inputs.c.stride;
                       tile.a = scan.a + begin, tile.a_stride = channels, tile.d = scan.d + begin;
                       tile.h = s.state + begin, tile.h_stride = channels;
                       tile.channels = end - begin, tile.states = scan.states;
                       for (int64_t t = s.first_row; t < s.first_row + s.rows; t += kTokens) {
                         tile.tokens = std::min(kTokens, s.first_row + s.rows - t);
                         tile.x = x.row(t) + begin, tile.dt = dt.row(t) + begin, tile.y = y.row(t) + begin;
                         tile.b = inputs.b.row(t) + column, tile.c = inputs.c.row(t) + column;
                         context.kernels.ssm.selective_scan(tile);
                       }
                     });
}

void head_scan(Context& context, const HeadScan& scan, tensor::ConstMatrix x, tensor::ConstMatrix dt,
               const ScanInputs& inputs, std::span<const Recurrence> sequences, tensor::Matrix y) {
  const int64_t channels = x.cols, heads = scan.heads;
  check("head_scan", x, y, scan.states, inputs);
  check_sequences("head_scan", sequences, x.rows, true);
  require(dt.rows == x.rows && dt.cols == heads, "head_scan", "dt is [{}, {}], for {} rows and {} heads", dt.rows,
          dt.cols, x.rows, heads);
  require(heads >= 1 && channels % heads == 0 && heads % inputs.groups == 0, "head_scan",
          "{} channels, {} heads, {} groups", channels, heads, inputs.groups);
  require(scan.a && scan.d, "head_scan", "no parameters");
  require(!scan.decay.data || (scan.decay.rows == x.rows && scan.decay.cols == heads), "head_scan",
          "decays are [{}, {}]", scan.decay.rows, scan.decay.cols);
  if (channels == 0 || x.rows == 0) return;
  if (context.tape) record_head_scan(*context.tape, scan, x, dt, inputs, sequences, y);

  const tensor::ArenaScope scratch(context.arena);
  const tensor::Matrix decay = context.arena.matrix(x.rows, heads);
  for_rows(context, x.rows, heads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (scan.decay.data) {
        std::copy_n(scan.decay.row(r), heads, decay.row(r));
        continue;
      }
      for (int64_t h = 0; h < heads; ++h) decay.row(r)[h] = dt.row(r)[h] * scan.a[h];
      context.kernels.vector.exp(decay.row(r), decay.row(r), heads);
    }
  });
  const tensor::Matrix steps = context.arena.matrix(x.rows, heads);  // dt as decay lies: one stride serves both
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(dt.row(r), heads, steps.row(r));

  const int64_t width = channels / heads, per_group = heads / inputs.groups;
  for_channel_pieces(context, sequences, channels, width, width, scan.states,
                     [&](const Recurrence& s, int64_t begin, int64_t) {
                       const int64_t head = begin / width, column = head / per_group * inputs.group_stride;
                       kernels::HeadScanTile tile;
                       tile.x_stride = x.stride, tile.y_stride = y.stride, tile.dt_stride = heads;
                       tile.b_stride = inputs.b.stride, tile.c_stride = inputs.c.stride;
                       tile.d = scan.d[head];
                       tile.h = s.state + head * scan.states * width, tile.h_stride = width;
                       tile.channels = width, tile.states = scan.states;
                       for (int64_t t = s.first_row; t < s.first_row + s.rows; t += kTokens) {
                         tile.tokens = std::min(kTokens, s.first_row + s.rows - t);
                         tile.x = x.row(t) + begin, tile.y = y.row(t) + begin;
                         tile.dt = steps.row(t) + head, tile.decay = decay.row(t) + head;
                         tile.b = inputs.b.row(t) + column, tile.c = inputs.c.row(t) + column;
                         context.kernels.ssm.head_scan(tile);
                       }
                     });
}

}  // namespace coterie::ops
