#include "runtime/weight_moves.h"

#include <algorithm>
#include <utility>

namespace coterie::runtime {

using tensor::Weight;

std::span<const std::byte> extent(const Weight& weight) {
  const int64_t last = tensor::row_bytes(weight.dtype, weight.cols);
  return {weight.data, static_cast<size_t>((weight.rows - 1) * weight.row_stride + last)};
}

void WeightMoves::add(const std::vector<Weight>& from, std::vector<Weight> to, bool stack) {
  moves_.emplace(from.front().data, Move{from.front(), std::move(to), stack});
}

void WeightMoves::matrix(const Tensor&, int64_t, int64_t, Weight& slot) {
  if (const Move* move = find(slot, false)) slot = move->to.front();
}

void WeightMoves::stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<Weight>& slots) {
  const auto bound = [](const Weight& slot) { return static_cast<bool>(slot); };  // others own the rest
  const auto first = std::find_if(slots.begin(), slots.end(), bound);
  const Move* move = first == slots.end() ? nullptr : find(*first, true);
  if (!move || std::ssize(move->to) != std::count_if(slots.begin(), slots.end(), bound)) return;
  auto next = move->to.begin();
  for (Weight& slot : slots)
    if (slot) slot = *next++;
}

const WeightMoves::Move* WeightMoves::find(const Weight& slot, bool stack) const {
  const auto [begin, end] = moves_.equal_range(slot.data);  // pieces of one tensor may begin at one address
  const auto found = std::find_if(begin, end, [&](const auto& each) {
    const Move& move = each.second;
    return move.stack == stack && slot.dtype == move.from.dtype && slot.rows == move.from.rows &&
           slot.row_stride == move.from.row_stride;
  });
  return found == end ? nullptr : &found->second;
}

}  // namespace coterie::runtime
