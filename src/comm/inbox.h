#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "comm/ranks.h"

namespace coterie::comm {

/// What other ranks have sent to this one in a step. Messages of a rank arrive in order, but what is needed first may
/// come from another rank, or behind something that is needed later: that is kept. What is left of earlier steps, which
/// failed, is dropped.
class Inbox {
 public:
  explicit Inbox(Ranks& ranks) : ranks_(ranks) {}

  void begin(uint64_t step) { step_ = step; }
  uint64_t step() const { return step_; }

  /// The first message that `wanted` says yes to. Throws what Ranks::receive_some throws, and RankFailure where
  /// any rank says that it failed in this step. `from` [R] and `awaited` are for the text of the error.
  Message take(std::span<const char> from, const Awaited& awaited, base::FunctionRef<bool(const Message&)> wanted);
  /// The same for as long as it takes: of a rank that does what may take hours.
  Message take_whenever(base::FunctionRef<bool(const Message&)> wanted);
  /// Takes what has arrived, without waiting, and lets what is under way move on: for who computes for long.
  void poll();
  /// The next message that begins something: `open`, `stop`, `rows`, `step`, `cache` or `move`, from rank 0, however
  /// long it takes.
  Message next();

 private:
  std::optional<Message> take_kept(base::FunctionRef<bool(const Message&)> wanted);
  Message take_of_step(base::FunctionRef<bool(const Message&)> wanted, base::FunctionRef<bool(const Message&)> stale,
                       base::FunctionRef<Message()> receive);

  Ranks& ranks_;
  std::deque<Message> kept_;
  uint64_t step_ = 0;
};

}  // namespace coterie::comm
