#pragma once

#include "runtime/speculation/drafter.h"

namespace coterie::runtime {

/// Prompt look-up (Saxena 2023): where the last tokens of a text stand earlier in it too, what followed them there is
/// the draft. Of several places it takes the one with the longest match, of equal ones the last. Texts that repeat
/// themselves or their prompt are drafted well by it (edits, quotes, code), others hardly ever. A pass over the text
/// for each draft.
class LookupDrafter final : public Drafter {
 public:
  static constexpr int64_t kLeast = 2, kMost = 16;  // tokens of a match that count

  Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler& sampler) override;
  bool is_free() const override { return true; }
};

}  // namespace coterie::runtime
