#include "layers/moe/routers/balanced_assignment.h"

#include <algorithm>
#include <limits>

namespace coterie::layers {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

class Assignment {
 public:
  explicit Assignment(tensor::ConstMatrix scores)
      : scores_(scores),
        experts_(scores.cols),
        capacity_((scores.rows + scores.cols - 1) / scores.cols),
        tokens_(static_cast<size_t>(experts_)),
        moves_(static_cast<size_t>(experts_ * experts_)) {}

  // The token goes where its score and what its coming there makes possible are best: to an expert with room, or to a
  // full one that passes a token on, and so forth. The assignment so far is the best one of its tokens, so no cycle of
  // moves gains, and at most E moves in a row do.
  void add(int32_t token) {
    std::vector<double> value(static_cast<size_t>(experts_));
    std::vector<int64_t> from(static_cast<size_t>(experts_), -1);
    for (int64_t e = 0; e < experts_; ++e) value[static_cast<size_t>(e)] = static_cast<double>(scores_.row(token)[e]);
    bool changed = true;
    for (int64_t round = 0; round < experts_ && changed; ++round) {
      changed = false;
      for (int64_t a = 0; a < experts_; ++a) {
        if (!full(a)) continue;
        for (int64_t b = 0; b < experts_; ++b) {
          const double reached = value[static_cast<size_t>(a)] + move(a, b).gain;
          if (!(reached > value[static_cast<size_t>(b)] + kRounding) || passes(from, a, b)) continue;
          value[static_cast<size_t>(b)] = reached, from[static_cast<size_t>(b)] = a, changed = true;
        }
      }
    }
    int64_t last = -1;
    for (int64_t e = 0; e < experts_; ++e)
      if (!full(e) && (last < 0 || value[static_cast<size_t>(e)] > value[static_cast<size_t>(last)])) last = e;
    std::vector<int64_t> path = {last};
    while (from[static_cast<size_t>(path.back())] >= 0) path.push_back(from[static_cast<size_t>(path.back())]);
    for (size_t i = 0; i + 1 < path.size(); ++i) {  // from the end: each expert on the way passes its token on
      const int32_t moved = move(path[i + 1], path[i]).token;
      std::erase(tokens_[static_cast<size_t>(path[i + 1])], moved);
      tokens_[static_cast<size_t>(path[i])].push_back(moved);
    }
    tokens_[static_cast<size_t>(path.back())].push_back(token);
    for (const int64_t e : path) note_moves(e);
  }

  std::vector<int32_t> result() const {
    std::vector<int32_t> of(static_cast<size_t>(scores_.rows));
    for (int32_t e = 0; e < experts_; ++e)
      for (const int32_t t : tokens_[static_cast<size_t>(e)]) of[static_cast<size_t>(t)] = e;
    return of;
  }

 private:
  static constexpr double kRounding = 1e-9;  // gains below it may be rounding, and go round in circles
  struct Move {
    double gain = kNever;
    int32_t token = -1;
  };
  Move& move(int64_t a, int64_t b) { return moves_[static_cast<size_t>(a * experts_ + b)]; }
  bool full(int64_t e) const { return std::ssize(tokens_[static_cast<size_t>(e)]) >= capacity_; }
  static bool passes(const std::vector<int64_t>& from, int64_t end, int64_t through) {
    for (int64_t at = end; at >= 0; at = from[static_cast<size_t>(at)])
      if (at == through) return true;
    return false;
  }
  /// The best token of expert a to be moved to each other expert.
  void note_moves(int64_t a) {
    for (int64_t b = 0; b < experts_; ++b) {
      Move best;
      for (const int32_t t : tokens_[static_cast<size_t>(a)]) {
        const double gain = static_cast<double>(scores_.row(t)[b]) - static_cast<double>(scores_.row(t)[a]);
        if (b != a && (best.token < 0 || gain > best.gain || (gain == best.gain && t < best.token))) best = {gain, t};
      }
      move(a, b) = best;
    }
  }

  tensor::ConstMatrix scores_;
  int64_t experts_, capacity_;
  std::vector<std::vector<int32_t>> tokens_;  // of each expert
  std::vector<Move> moves_;                   // [E, E]
};

}  // namespace

std::vector<int32_t> balanced_assignment(tensor::ConstMatrix scores) {
  Assignment assignment(scores);
  for (int32_t t = 0; t < scores.rows; ++t) assignment.add(t);
  return assignment.result();
}

}  // namespace coterie::layers
