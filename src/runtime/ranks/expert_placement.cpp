#include "runtime/ranks/expert_placement.h"

#include <algorithm>
#include <numeric>

namespace coterie::runtime {

ExpertPlacement::ExpertPlacement(int ranks, const std::vector<std::vector<int64_t>>& counts, int64_t hot)
    : even_{ranks} {
  for (const std::vector<int64_t>& used : counts) {
    std::vector<int>& owner = owner_.emplace_back(used.size(), kEverybody);
    std::vector<size_t> order(used.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return used[a] > used[b]; });
    const size_t everywhere = std::min(order.size(), static_cast<size_t>(hot));
    const size_t placed = order.size() - everywhere,
                 most = (placed + static_cast<size_t>(ranks) - 1) / static_cast<size_t>(ranks);
    std::vector<int64_t> load(static_cast<size_t>(ranks));
    std::vector<size_t> has(load.size());
    for (size_t i = everywhere; i < order.size(); ++i) {
      size_t best = load.size();
      for (size_t r = 0; r < load.size(); ++r)
        if (has[r] < most && (best == load.size() || load[r] < load[best])) best = r;
      owner[order[i]] = static_cast<int>(best);
      load[best] += used[order[i]];
      ++has[best];
    }
  }
}

int ExpertPlacement::owner_of(int64_t layer, int64_t expert, int64_t experts) const {
  const auto at = static_cast<size_t>(layer);
  if (layer < 0 || at >= owner_.size() || owner_[at].size() != static_cast<size_t>(experts))
    return even_.owner(expert, experts);
  return owner_[at][static_cast<size_t>(expert)];
}

}  // namespace coterie::runtime
