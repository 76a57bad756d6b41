#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace coterie::train {

double Schedule::at(int64_t step) const {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  const int64_t start = kind == Kind::wsd ? steps - decay : warmup;
  if (kind == Kind::constant || step < start) return 1;
  // The last step of the run is at 1.
  const double way = static_cast<double>(step - start + (kind == Kind::wsd)) /
                     static_cast<double>(std::max<int64_t>(steps - start - (kind != Kind::wsd), 1));
  const double rest = kind == Kind::cosine ? 0.5 * (1 + std::cos(std::numbers::pi * way)) : 1 - way;
  return floor + (1 - floor) * std::max(rest, 0.0);
}

void check(const Schedule& schedule, std::string_view where) {
  using base::ErrorKind;
  if (schedule.steps < 1) base::fail(ErrorKind::bad_input, where, "steps is {}, expected 1 or more", schedule.steps);
  const int64_t decay = schedule.kind == Schedule::Kind::wsd ? schedule.decay : 0;
  if (schedule.warmup < 0 || decay < 0 || schedule.warmup + decay > schedule.steps)
    throw base::Error(ErrorKind::bad_input, std::string(where),
                      fmt::format("{} steps of warm-up and {} of decay do not fit into {} steps", schedule.warmup,
                                  decay, schedule.steps),
                      "fewer of them (warmup, decay), or more steps");
  if (schedule.kind == Schedule::Kind::wsd && decay == 0)
    base::fail(ErrorKind::bad_input, where, "wsd needs the number of its last steps: decay");
  if (!(schedule.floor >= 0 && schedule.floor <= 1))
    base::fail(ErrorKind::bad_input, where, "the floor of the learning rate is {} of its peak, expected 0 to 1",
               schedule.floor);
}

}  // namespace coterie::train
