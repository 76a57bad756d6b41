#include "train/ranks/ownership.h"

#include <algorithm>

#include "comm/placement.h"
#include "train/adamw.h"

namespace coterie::train {

namespace {

constexpr int64_t kPiece = AdamW::kPiece;

int64_t pieces_of(int64_t values) { return (values + kPiece - 1) / kPiece; }

}  // namespace

Ownership::Ownership(std::span<const models::Parameter> list, int ranks)
    : list_(list.begin(), list.end()), of_(static_cast<size_t>(ranks)), dense_of_(of_) {
  const comm::Placement placement{ranks};
  int64_t pieces = 0, done = 0;  // of what is not of experts
  for (const models::Parameter& p : list_)
    if (p.trained && p.experts == 0) pieces += pieces_of(p.whole());
  for (size_t i = 0; i < list_.size(); ++i) {
    const models::Parameter& p = list_[i];
    if (!p.trained) continue;
    const int64_t own = pieces_of(p.whole());
    for (int r = 0; r < ranks; ++r) {
      const auto rank = static_cast<size_t>(r);
      if (p.experts > 0) {
        const ValueRange range{i, placement.first(r, p.experts) * p.of_expert(),
                               placement.end(r, p.experts) * p.of_expert()};
        if (range.count() > 0) of_[rank].push_back(range);
        continue;
      }
      const int64_t first = std::clamp<int64_t>(pieces * r / ranks - done, 0, own);
      const int64_t end = std::clamp<int64_t>(pieces * (r + 1) / ranks - done, 0, own);
      const ValueRange range{i, first * kPiece, std::min(end * kPiece, p.whole())};
      if (range.count() <= 0) continue;
      of_[rank].push_back(range);
      dense_of_[rank].push_back(range);
    }
    if (p.experts == 0) done += own;
  }
}

int64_t Ownership::dense_values(int rank) const {
  int64_t sum = 0;
  for (const ValueRange& range : dense_of(rank)) sum += range.count();
  return sum;
}

std::vector<Ownership::Part> Ownership::of_parameter(size_t parameter) const {
  std::vector<Part> parts;
  for (size_t r = 0; r < of_.size(); ++r)
    for (const ValueRange& range : of_[r])
      if (range.parameter == parameter) parts.push_back({static_cast<int>(r), range});
  return parts;  // both orders of ranks are those of values
}

int64_t Ownership::pieces(const ValueRange& range) const {
  const models::Parameter& p = list_[range.parameter];
  if (p.experts == 0) return pieces_of(range.count());
  return range.count() / p.of_expert() * pieces_of(p.of_expert());
}

}  // namespace coterie::train
