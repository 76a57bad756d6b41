#include "runtime/ranks/rank_rows.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace coterie::runtime {

using comm::Kind;

namespace {

constexpr int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace

RankRows::RankRows(comm::Ranks& all, comm::Inbox& inbox, int64_t least)
    : RowShare({all.rank(), all.size(), least}), ranks_(all), inbox_(inbox), first_(*this) {}

int64_t RankRows::payload(int of_rank, int64_t rows, int64_t columns, int64_t unit) const {
  return padded(rows * part(of_rank, columns, unit).size() * static_cast<int64_t>(sizeof(float)));
}

comm::Message RankRows::take(std::span<const char> waiting) {
  return inbox_.take(waiting, {Kind::part, inbox_.step(), -1}, [&](const comm::Message& m) {
    return m.header().kind == Kind::part && m.header().number == static_cast<uint32_t>(exchanges_) &&
           waiting[static_cast<size_t>(m.from())];
  });
}

void RankRows::exchange(std::span<const Divided> outputs, bool to_first) {
  ++exchanges_;
  const int here = ranks_.rank();
  int64_t bytes = 0;
  for (const Divided& d : outputs) bytes += payload(here, d.y.rows, d.y.cols, d.unit);
  comm::Writer message(Kind::part, inbox_.step(), -1, static_cast<size_t>(bytes));
  message.number(exchanges_);
  for (const Divided& d : outputs) {
    const ops::RowRange mine = own(d.y.cols, d.unit);
    auto* at = message.room<float>(static_cast<size_t>(d.y.rows * mine.size()));
    for (int64_t r = 0; r < d.y.rows; ++r) at = std::copy_n(d.y.row(r) + mine.begin, mine.size(), at);
  }
  std::vector<char> waiting(static_cast<size_t>(ranks_.size()), !to_first || here == 0);
  waiting[static_cast<size_t>(here)] = 0;
  if (to_first) {
    if (here != 0) ranks_.send(0, std::move(message));
  } else {
    int last = ranks_.size() - 1;
    if (last == here) --last;
    for (int to = 0; to < ranks_.size(); ++to) {
      if (to == here) continue;
      if (to == last)
        ranks_.send(to, std::move(message));
      else
        ranks_.send(to, message);
    }
  }
  for (auto left = std::count(waiting.begin(), waiting.end(), 1); left > 0; --left) {
    comm::Message part_of = take(waiting);
    waiting[static_cast<size_t>(part_of.from())] = 0;
    for (const Divided& d : outputs) {
      const ops::RowRange theirs = part(part_of.from(), d.y.cols, d.unit);
      const float* at = part_of.array<float>(static_cast<size_t>(d.y.rows * theirs.size())).data();
      for (int64_t r = 0; r < d.y.rows; ++r, at += theirs.size())
        std::copy_n(at, theirs.size(), d.y.row(r) + theirs.begin);
    }
  }
}

void RankRows::first_decides(std::span<int32_t> ids, std::span<float> weights) {
  ++exchanges_;
  if (ranks_.rank() == 0) {
    for (int to = 1; to < ranks_.size(); ++to) {
      comm::Writer message(Kind::part, inbox_.step(), -1, ids.size_bytes() + weights.size_bytes() + 16);
      message.number(exchanges_);
      message.array(std::span<const int32_t>(ids));
      message.array(std::span<const float>(weights));
      ranks_.send(to, std::move(message));
    }
    return;
  }
  std::vector<char> waiting(static_cast<size_t>(ranks_.size()));
  waiting.front() = 1;
  comm::Message chosen = take(waiting);
  const std::span<const int32_t> their_ids = chosen.array<int32_t>(ids.size());
  const std::span<const float> their_weights = chosen.array<float>(weights.size());
  std::copy(their_ids.begin(), their_ids.end(), ids.begin());
  std::copy(their_weights.begin(), their_weights.end(), weights.begin());
}

}  // namespace coterie::runtime
