#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie::runtime {

/// Whether experts are read before the layer that wants them has been reached: as long as that pays, always, or never.
enum class LookAhead { automatic, on, off };

/// Decides it for steps that decode. Automatic: steps with it and without take turns, a few at a time, and their time
/// for an expert that was asked for is compared; the better way is kept for many steps, then both are tried again.
class LookAheadSwitch {
 public:
  explicit LookAheadSwitch(LookAhead mode = LookAhead::off) : mode_(mode) {}

  LookAhead mode() const { return mode_; }
  /// For the step that begins now.
  bool on() const;
  /// A step has taken so long, and its layers asked for so many experts.
  void note(double seconds, int64_t experts);
  /// The time without divided by the time with it, by the last comparison that ended; 0: none has.
  double gain() const { return gain_; }

 private:
  struct Times {
    int64_t steps = 0;
    double sum = 0, squares = 0;  // of seconds an expert
    void add(double seconds);
    double mean() const { return sum / static_cast<double>(steps); }
    /// Of the mean: its standard error, squared.
    double variance() const;
  };
  /// Which way step `step` of a comparison goes: with, without, without, with, kWindowSteps each.
  static bool with(int64_t step);
  void decide();

  LookAhead mode_;
  bool compares_ = false, keeps_ = true;  // comparing now; else what is kept
  int64_t step_ = 0;                      // of the comparison, or since the last one
  int64_t until_ = 16;                    // steps before the next comparison: the first find empty slots
  Times with_, without_;
  double gain_ = 0;
};

/// How often guesses were right, of experts that were not in memory, by their rank among a token's: the lower ones are
/// worth no read where a router guesses badly.
class Guesses {
 public:
  /// Whether at least half of the last few hundred of this rank were right, or too few have been made to know.
  bool worth(int64_t rank) const;
  void guess(int32_t layer, int32_t expert, int64_t rank);
  /// What the layer asks for, ascending. Guesses of another layer, which was not reached, count for nothing.
  void settle(int32_t layer, std::span<const int32_t> asked);

 private:
  struct Guess {
    int32_t layer, expert;
    size_t rank;
  };
  struct Record {
    int64_t all = 0, right = 0;
  };
  std::vector<Guess> open_;
  std::vector<Record> of_rank_;
};

}  // namespace coterie::runtime
