#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "comm/ranks.h"

namespace coterie::runtime {

/// What other ranks have sent to this one in a step. Messages of a rank arrive in order, but what is needed first may
/// come from another rank, or behind something that is needed later: that is kept. What is left of earlier steps, which
/// failed, is dropped.
class Inbox {
 public:
  explicit Inbox(comm::Ranks& ranks) : ranks_(ranks) {}

  void begin(uint64_t step) { step_ = step; }
  uint64_t step() const { return step_; }

  /// The first message that `wanted` says yes to. Throws what Ranks::receive_some throws, and comm::RankFailure where
  /// any rank says that it failed in this step. `from` [R] and `awaited` are for the text of the error.
  comm::Message take(std::span<const char> from, const comm::Awaited& awaited,
                     base::FunctionRef<bool(const comm::Message&)> wanted);
  /// The next message that begins something: `open`, `stop`, `rows` or `step`, from rank 0, however long it takes.
  comm::Message next();

 private:
  comm::Ranks& ranks_;
  std::deque<comm::Message> kept_;
  uint64_t step_ = 0;
};

}  // namespace coterie::runtime
