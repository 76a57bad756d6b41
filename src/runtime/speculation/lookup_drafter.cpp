#include "runtime/speculation/lookup_drafter.h"

#include <algorithm>

namespace coterie::runtime {

Draft LookupDrafter::propose(std::span<const TokenId> tokens, int64_t most, const Sampler&) {
  const int64_t size = std::ssize(tokens);
  if (most < 1 || size <= kLeast) return {};
  const TokenId last = tokens.back();
  int64_t longest = kLeast - 1, end = 0;  // of the earlier place: the position after it
  for (int64_t at = size - 2; at + 1 > longest && longest < kMost; --at) {
    if (tokens[static_cast<size_t>(at)] != last) continue;
    int64_t length = 1;
    while (length < kMost && length <= at &&
           tokens[static_cast<size_t>(at - length)] == tokens[static_cast<size_t>(size - 1 - length)])
      ++length;
    if (length > longest) longest = length, end = at + 1;
  }
  if (longest < kLeast) return {};
  Draft draft;
  draft.trust = longest < 4 ? 0 : longest < 8 ? 1 : longest < kMost ? 2 : 3;
  // What follows may run into the end of the text: a text that repeats a few tokens goes on with them.
  for (int64_t i = 0; i < most; ++i) {
    const int64_t at = end + i;
    draft.tokens.push_back(at < size ? tokens[static_cast<size_t>(at)] : draft.tokens[static_cast<size_t>(at - size)]);
  }
  return draft;
}

}  // namespace coterie::runtime
