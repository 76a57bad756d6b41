#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coterie::runtime {

/// Text on its way out, watched for stop strings: what could still become one is held back, so no part of a stop
/// string is ever let through.
class StopFilter {
 public:
  /// Refuses an empty stop string.
  explicit StopFilter(std::vector<std::string> stops);

  /// The text that may go out now. Once a stop string has come, what stood before it has been returned and stopped()
  /// holds; of several the one that begins first counts.
  std::string push(std::string_view text);
  /// What was held back, when the text has ended without a stop string.
  std::string finish();
  bool stopped() const { return stopped_; }
  /// The number of the stop string that has come, of several that begin at one place the first; -1: none.
  int64_t which() const { return which_; }

 private:
  /// Where in held_ the first of the stop strings is, and which that is.
  std::pair<size_t, int64_t> find() const;

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
  int64_t which_ = -1;
};

}  // namespace coterie::runtime
