#pragma once

#include <cstdint>
#include <string_view>

namespace coterie::train {

/// How the learning rate goes over the steps of a run, as a share of its peak.
struct Schedule {
  enum class Kind {
    constant,
    cosine,  // half a cosine from the peak to the floor (Loshchilov & Hutter 2017, arXiv:1608.03983)
    linear,  // a straight line from the peak to the floor
    wsd,     // stays at the peak, then a straight line over the last `decay` steps (MiniCPM, arXiv:2404.06395)
  };
  Kind kind = Kind::cosine;
  int64_t steps = 0;   // of the whole run
  int64_t warmup = 0;  // first steps, in which the rate rises in a straight line: (s + 1) / warmup
  int64_t decay = 0;   // wsd: last steps
  double floor = 0;    // share of the peak at the last step

  /// The learning rate of step s in [0, steps). The last step is at the floor (cosine, linear, wsd).
  double at(int64_t step) const;
};

/// Throws bad_input for a schedule that cannot be: no steps, a warm-up and decay longer than the run, a floor outside
/// of [0, 1].
void check(const Schedule& schedule, std::string_view where);

}  // namespace coterie::train
