#include "runtime/speculation/step_seconds.h"

#include <algorithm>

namespace coterie::runtime {

namespace {

constexpr double kDown = 0.5, kUp = 0.1;  // how much of a difference a measurement counts
constexpr double kGuess = 0.1;            // of a step of one row: what each row more is taken to cost at first
constexpr int64_t kMost = 4096;           // rows that are told apart

}  // namespace

double tokens_of_step(int64_t drafted, double acceptance) {
  double tokens = 1, chance = 1;
  for (int64_t i = 0; i < drafted; ++i) chance *= acceptance, tokens += chance;
  return tokens;
}

void StepSeconds::measured(int64_t rows, double seconds) {
  if (rows < 1 || rows > kMost) return;
  if (rows >= std::ssize(widths_)) widths_.resize(static_cast<size_t>(rows) + 1);
  Width& width = widths_[static_cast<size_t>(rows)];
  if (width.count++ == 0)
    width.seconds = seconds;
  else
    width.seconds += (seconds < width.seconds ? kDown : kUp) * (seconds - width.seconds);
}

int64_t StepSeconds::count(int64_t rows) const {
  return rows < std::ssize(widths_) ? widths_[static_cast<size_t>(rows)].count : 0;
}

double StepSeconds::expected(int64_t rows) const {
  if (count(rows) > 0) return widths_[static_cast<size_t>(rows)].seconds;
  int64_t before = 0, earlier = 0, after = 0;  // measured widths around it
  for (int64_t r = 1; r < std::ssize(widths_); ++r) {
    if (count(r) == 0) continue;
    if (r < rows)
      earlier = before, before = r;
    else if (after == 0)
      after = r;
  }
  const auto at = [&](int64_t r) { return widths_[static_cast<size_t>(r)].seconds; };
  if (before == 0) return after == 0 ? 0 : at(after);
  const auto along = [&](int64_t a, int64_t b) {
    const double slope = std::max(at(b) - at(a), 0.0) / static_cast<double>(b - a);
    return at(a) + slope * static_cast<double>(rows - a);
  };
  if (after > 0) return along(before, after);
  if (earlier > 0) return along(earlier, before);
  return at(before) * (1 + kGuess * static_cast<double>(rows - before) / static_cast<double>(before));
}

}  // namespace coterie::runtime
