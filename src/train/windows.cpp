#include "train/windows.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::train {

namespace {

// What a draw is for: the second word of Philox's counter.
enum Purpose : uint64_t { kRandomBegin = 1, kShift = 2, kPermutation = 3 };

uint64_t draw(uint64_t seed, Purpose purpose, uint64_t high, uint64_t low) {
  const auto block = base::Philox::block(seed, (static_cast<uint64_t>(purpose) << 56) | high, low);
  return (uint64_t{block[0]} << 32) | block[1];
}

}  // namespace

Windows::Windows(int64_t tokens, int64_t length, Order order, uint64_t seed, std::string_view where)
    : tokens_(tokens), length_(length), windows_(1), order_(order), seed_(seed) {
  if (length < 1)
    base::fail(base::ErrorKind::bad_input, where, "the sequence length is {}, expected 1 or more", length);
  if (tokens < length + 1)
    base::fail(base::ErrorKind::bad_input, where,
               "{} tokens, expected at least {}: a sequence of {} and its last target", tokens, length + 1, length);
  // The fewest that any cut makes, so that the number of a sample says its epoch without a sum.
  windows_ = order == Order::shuffled ? std::max<int64_t>(count(length_ - 1), 1) : count(0);
}

int64_t Windows::begin(int64_t sample) const {
  if (order_ == Order::random) {
    const auto most = static_cast<uint64_t>(tokens_ - length_);
    return static_cast<int64_t>(draw(seed_, kRandomBegin, 0, static_cast<uint64_t>(sample)) % most);
  }
  const int64_t epoch = sample / windows_, index = sample % windows_;
  if (order_ == Order::sequential) return index * length_;
  const int64_t cut = shift(epoch);
  return cut + permuted(index, count(cut), epoch) * length_;
}

int64_t Windows::shift(int64_t epoch) const {
  const int64_t most = std::min(length_, tokens_ - length_);
  return epoch == 0
             ? 0
             : static_cast<int64_t>(draw(seed_, kShift, 0, static_cast<uint64_t>(epoch)) % static_cast<uint64_t>(most));
}

// A permutation of [0, count) without a table: four Feistel rounds over the least power of four that holds it, again
// until the result is inside (Black & Rogaway 2002).
int64_t Windows::permuted(int64_t index, int64_t count, int64_t epoch) const {
  const int half = std::max(1, (static_cast<int>(std::bit_width(static_cast<uint64_t>(count - 1))) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed =
          left ^ (draw(seed_, kPermutation, (static_cast<uint64_t>(epoch) << 2) | round, right) & mask);
      left = right, right = mixed;
    }
    value = (left << half) | right;
  } while (value >= static_cast<uint64_t>(count));
  return static_cast<int64_t>(value);
}

}  // namespace coterie::train
