#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "ops/context.h"
#include "ops/conv.h"
#include "ops/rows.h"

namespace coterie::ops {

/// Sequences that lie inside the batch, each with a state if it `needs_state`.
inline void check_sequences(std::string_view where, std::span<const Recurrence> sequences, int64_t rows,
                            bool needs_state) {
  for (const Recurrence& s : sequences) {
    base::require(s.first_row >= 0 && s.rows >= 0 && s.first_row + s.rows <= rows, where,
                  "rows {} to {} of a batch of {}", s.first_row, s.first_row + s.rows, rows);
    base::require(s.state || !needs_state, where, "a sequence without a state");
  }
}

/// body(sequence, channel_begin, channel_end) over pieces of at most `width` channels that do not cross a multiple of
/// `group`, for every sequence, over the pool when the work (in multiply-adds an element) is worth it.
inline void for_channel_pieces(Context& context, std::span<const Recurrence> sequences, int64_t channels, int64_t group,
                               int64_t width, int64_t work,
                               base::FunctionRef<void(const Recurrence&, int64_t, int64_t)> body) {
  const int64_t in_group = (group + width - 1) / width, pieces = channels / group * in_group;
  int64_t rows = 0;
  for (const Recurrence& s : sequences) rows += s.rows;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Recurrence& s = sequences[static_cast<size_t>(i / pieces)];
      const int64_t piece = i % pieces, first = piece / in_group * group;
      const int64_t at = first + piece % in_group * width;
      if (s.rows > 0) body(s, at, std::min(at + width, first + group));
    }
  };
  const int64_t count = pieces * static_cast<int64_t>(sequences.size());
  if (rows * channels * work < kParallelElements) return run(0, count);
  context.pool.split(count, 1, [&](int64_t begin, int64_t end, int) { run(begin, end); });
}

}  // namespace coterie::ops
