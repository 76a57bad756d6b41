#include "runtime/expert_store/look_ahead.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace coterie::runtime {

namespace {

constexpr int64_t kWindowSteps = 4;     // steps one way, of which the first is not counted: it meets the other's reads
constexpr int64_t kFewestCounted = 24;  // counted steps each way before anything is decided
constexpr int64_t kMostCounted = 96;    // after which the better mean decides
constexpr int64_t kKeptSteps = 1024;    // steps until both ways are tried again
constexpr double kStandardErrors = 2;   // apart: no chance

}  // namespace

void LookAheadSwitch::Times::add(double seconds) { ++steps, sum += seconds, squares += seconds * seconds; }

double LookAheadSwitch::Times::variance() const {
  const auto n = static_cast<double>(steps);
  return std::max(squares / n - mean() * mean(), 0.0) / n;
}

bool LookAheadSwitch::with(int64_t step) {
  const int64_t window = step / kWindowSteps % 4;
  return window == 0 || window == 3;
}

bool LookAheadSwitch::on() const {
  if (mode_ != LookAhead::automatic) return mode_ == LookAhead::on;
  return compares_ ? with(step_) : keeps_;
}

void LookAheadSwitch::note(double seconds, int64_t experts) {
  if (mode_ != LookAhead::automatic || experts == 0) return;
  if (!compares_) {
    if (++step_ < until_) return;
    compares_ = true, step_ = 0;
    with_ = without_ = {};
    return;
  }
  if (step_ % kWindowSteps != 0) (with(step_) ? with_ : without_).add(seconds / static_cast<double>(experts));
  ++step_;
  decide();
}

void LookAheadSwitch::decide() {
  const int64_t counted = std::min(with_.steps, without_.steps);
  if (counted < kFewestCounted || step_ % (4 * kWindowSteps) != 0) return;
  const double difference = without_.mean() - with_.mean();
  const double error = std::sqrt(with_.variance() + without_.variance());
  if (counted < kMostCounted && std::abs(difference) < kStandardErrors * error) return;
  keeps_ = difference > 0, gain_ = without_.mean() / with_.mean();
  compares_ = false, step_ = 0, until_ = kKeptSteps;
}

bool Guesses::worth(int64_t rank) const {
  constexpr int64_t kFew = 64;
  if (rank >= std::ssize(of_rank_)) return true;
  const Record& record = of_rank_[static_cast<size_t>(rank)];
  return record.all < kFew || 2 * record.right >= record.all;
}

void Guesses::guess(int32_t layer, int32_t expert, int64_t rank) {
  open_.push_back({layer, expert, static_cast<size_t>(rank)});
}

void Guesses::settle(int32_t layer, std::span<const int32_t> asked) {
  constexpr int64_t kMany = 512;  // after which what was counts half
  for (const Guess& guess : open_) {
    if (guess.layer != layer) continue;
    if (guess.rank >= of_rank_.size()) of_rank_.resize(guess.rank + 1);
    Record& record = of_rank_[guess.rank];
    if (record.all >= kMany) record.all /= 2, record.right /= 2;
    ++record.all, record.right += std::binary_search(asked.begin(), asked.end(), guess.expert);
  }
  open_.clear();
}

}  // namespace coterie::runtime
