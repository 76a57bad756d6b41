#include "base/nearest.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace coterie::base {

namespace {

// Damerau's distance, in its form where no part is edited twice.
int64_t distance(std::string_view a, std::string_view b) {
  std::vector<int64_t> before, above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = above;
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> known) {
  const std::string* best = nullptr;
  int64_t least = std::max<int64_t>(1, static_cast<int64_t>(word.size()) / 3);
  for (const std::string& other : known) {
    const int64_t d = distance(word, other);
    if (d < least || (d == least && !best)) least = d, best = &other;
  }
  return best ? *best : std::string();
}

std::string did_you_mean(std::string_view word, std::span<const std::string> known) {
  const std::string near = nearest(word, known);
  return near.empty() ? near : "did you mean \"" + near + "\"?";
}

}  // namespace coterie::base
