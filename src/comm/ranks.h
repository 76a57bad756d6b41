#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/function_ref.h"
#include "comm/communicator.h"
#include "comm/message.h"

namespace coterie::comm {

/// How long a rank waits for another before it says so, and before it gives up.
struct Patience {
  double notice = 30, limit = 300;                   // seconds
  std::function<void(const std::string&)> say = {};  // gets the notice; null: nobody
};

/// What a rank waits for: checked against what comes, and named where nothing does.
struct Awaited {
  Kind kind = Kind::gather;
  uint64_t step = 0;
  int64_t layer = -1;
};

/// What one rank has sent.
struct Traffic {
  int64_t messages = 0;
  int64_t header_bytes = 0;   // 32 a message
  int64_t payload_bytes = 0;  // what they carried
};

/// The error of another rank, which has told all that wait for it.
class RankFailure : public base::Error {
 public:
  using base::Error::Error;
};

/// The ranks of one run, as one of them sees the others: messages with headers, deadlines on every wait, and what is
/// made of both. Used by one thread.
class Ranks {
 public:
  explicit Ranks(std::unique_ptr<Communicator> communicator, Patience patience = {});

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }
  int ranks_of_host() const { return communicator_->ranks_of_host(); }
  std::string transport() const { return communicator_->name(); }

  /// Tells all others this rank's host and process, and learns theirs. All ranks call it, first of all. From then on
  /// who waits for a rank of its own host, whose process has ended, learns it at once.
  void meet();
  /// "rank 2 (host b)"; without the host before meet().
  std::string describe(int rank) const;

  void send(int to, Writer message);
  /// Tells a rank that this one cannot go on with a step. Whatever it waits for, it throws this error.
  void send_failure(int to, const base::Error& error, uint64_t step);
  /// Throws what a message of kind `failure` tells, by the name of the rank.
  [[noreturn]] void throw_failure(Message& message) const;

  /// Waits for the next message of rank `from`. Throws io, naming rank, host, layer and step, after Patience::limit;
  /// the sender's error, where it sent one; internal for a message that is not the one awaited.
  Message receive(int from, const Awaited& awaited);
  /// The next message of any rank, whatever it is. Throws io as receive() does, where `from` [R] and `awaited` say who
  /// and what is missing.
  Message receive_some(std::span<const char> from, const Awaited& awaited);
  /// The same for as long as it takes: what a rank does that serves another.
  Message receive_next();
  /// A message that is there, if one is.
  std::optional<Message> try_any();

  /// Everybody's text, by rank. All ranks call it.
  std::vector<std::string> all_gather(const std::string& own);
  /// Replaces `values` by their sum over all ranks, which is added in the order of the ranks whatever arrives first, so
  /// that it is the same bits on every rank and in every run: each rank adds up a slice, and all gather the slices. All
  /// ranks call it with as many values.
  void ordered_sum(std::span<float> values);

  const Traffic& traffic() const { return traffic_; }
  /// Seconds spent in waiting for others, those of receive_next() excluded.
  double waited() const { return waited_; }
  /// Whether a rank has ended or not answered in time: nothing more can be expected of the run (abort). What waits from
  /// then on throws at once. Any thread may ask.
  bool lost() const { return lost_; }
  /// A rank of this host whose process has ended, if one has. Any thread may ask, after meet().
  std::optional<int> ended_rank() const;
  void abort(int exit_code) { communicator_->abort(exit_code); }

 private:
  Message checked(int from, Bytes bytes, const Awaited& awaited);
  void wait(base::FunctionRef<bool()> arrived, std::span<const char> wanted, const Awaited& awaited);
  [[noreturn]] void give_up(std::span<const char> wanted, const Awaited& awaited);
  void look_for_ended(std::span<const char> wanted, const Awaited& awaited);
  std::string waiting_text(std::span<const char> wanted, const Awaited& awaited) const;

  std::unique_ptr<Communicator> communicator_;
  Patience patience_;
  std::vector<std::string> hosts_;
  std::vector<pid_t> processes_;  // of ranks of this host; 0: of another, or one that cannot be seen
  std::string lost_text_;
  Traffic traffic_;
  uint64_t gathers_ = 0;
  double waited_ = 0;
  std::atomic<bool> lost_ = false;
};

}  // namespace coterie::comm
