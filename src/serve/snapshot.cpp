#include "serve/snapshot.h"

#include <algorithm>

namespace coterie::serve {

void Histogram::add(double value) {
  counts.resize(upper.size() + 1);
  ++counts[static_cast<size_t>(std::lower_bound(upper.begin(), upper.end(), value) - upper.begin())];
  sum += value;
  ++count;
}

std::string_view name(RequestState state) {
  switch (state) {
    case RequestState::queued: return "queued";
    case RequestState::reading: return "reading";
    case RequestState::decoding: return "decoding";
    case RequestState::paused: return "paused";
  }
  return "unknown";
}

}  // namespace coterie::serve
