#include "runtime/stop_filter.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace coterie::runtime {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) base::fail(base::ErrorKind::bad_input, "stop", "a stop string is empty");
}

std::pair<size_t, int64_t> StopFilter::find() const {
  std::pair<size_t, int64_t> first{std::string::npos, -1};
  for (size_t i = 0; i < stops_.size(); ++i)
    if (const size_t at = held_.find(stops_[i]); at < first.first) first = {at, static_cast<int64_t>(i)};
  return first;
}

std::string StopFilter::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;

  const auto [first, which] = find();
  // A stop string that begins earlier may still be incomplete; it wins when it completes, so wait for it.
  size_t unsure = held_.size();
  for (const std::string& stop : stops_) {
    const size_t longest = std::min(stop.size() - 1, held_.size());
    for (size_t length = longest; length > 0; --length)
      if (std::string_view(held_).substr(held_.size() - length) == std::string_view(stop).substr(0, length)) {
        unsure = std::min(unsure, held_.size() - length);
        break;
      }
  }
  if (first <= unsure && first != std::string::npos) {
    stopped_ = true, which_ = which;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  std::string out = held_.substr(0, unsure);
  held_.erase(0, unsure);
  return out;
}

std::string StopFilter::finish() {
  if (stopped_) return {};
  // The end has come: an earlier, longer stop string never completed, a later one may have.
  const auto [first, which] = find();
  if (first != std::string::npos) stopped_ = true, which_ = which, held_.resize(first);
  return std::exchange(held_, {});
}

}  // namespace coterie::runtime
