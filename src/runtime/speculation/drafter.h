#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/sampler.h"
#include "tensor/view.h"

namespace coterie::runtime {

/// Tokens that may come next, and how sure whoever drafted them is of them.
struct Draft {
  std::vector<TokenId> tokens;
  int64_t trust = 0;  // in [0, Drafter::kTrusts): what is accepted is counted for each apart
};

/// Guesses how a text goes on. A guess that is wrong costs time and changes nothing.
class Drafter {
 public:
  static constexpr int64_t kTrusts = 4;

  virtual ~Drafter() = default;
  /// At most `most` tokens to follow `tokens`; none where it has no idea. `sampler` is the text's own, as it is now: a
  /// drafter with a distribution draws from it by the same random numbers.
  virtual Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler& sampler) = 0;
  /// Whether it wants to see() what the model computes.
  virtual bool sees() const { return false; }
  /// What the model's final norm made of the tokens at positions `first` and on of `tokens`, [N, D]. They are those it
  /// goes on from; what it may have seen at these positions or beyond holds no more.
  virtual void see(std::span<const TokenId> tokens, int64_t first, tensor::ConstMatrix rows) {
    (void)tokens, (void)first, (void)rows;
  }
  /// Whether a draft costs nothing beside a step of the model, so that one may be made to see how far it is to be
  /// trusted.
  virtual bool is_free() const = 0;
};

}  // namespace coterie::runtime
