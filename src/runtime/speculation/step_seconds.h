#pragma once

#include <cstdint>
#include <vector>

namespace coterie::runtime {

/// Tokens that a step brings on average which verifies so many drafted ones, each accepted as often as `acceptance`
/// says where those before it were: 1 + Σ acceptance^i.
double tokens_of_step(int64_t drafted, double acceptance);

/// What a decode step of an engine costs by how many rows it evaluates, as measured while it runs. Shared by all
/// sequences of the engine.
class StepSeconds {
 public:
  /// A step of `rows` rows took so long. Times are upset upwards only (by other processes), so a shorter one counts
  /// for more.
  void measured(int64_t rows, double seconds);
  /// Seconds of a step of `rows` rows: measured, between or beyond measured ones along a line, and where there is one
  /// figure alone with a little for each row more, so that it comes to be measured. 0 before anything was.
  double expected(int64_t rows) const;
  /// Steps of `rows` rows that were measured.
  int64_t count(int64_t rows) const;

 private:
  struct Width {
    double seconds = 0;
    int64_t count = 0;
  };
  std::vector<Width> widths_;  // by rows
};

}  // namespace coterie::runtime
