#pragma once

#include <optional>
#include <string>

#include "comm/bytes.h"

namespace coterie::comm {

/// Carries messages between the ranks of one run: numbered from 0, rank 0 is the one that a user talks to. What
/// carries them is a matter of the implementation: threads of one process (comm/threads.h), MPI (comm/mpi.cpp), or one
/// of these with delays (comm/delayed.h). A rank uses it by one thread at a time. There is no reduction here, and no
/// order of addition: who needs a sum gets the terms and adds them in the order of the ranks (Ranks::ordered_sum).
///
/// Implementations throw std::runtime_error with a sentence; comm::Ranks makes base::Error of it.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks on the host of this one, itself included.
  virtual int ranks_of_host() const = 0;
  /// What carries the messages: "threads of one process", "Open MPI 4.1.4 (MPI 3.1)".
  virtual std::string name() const = 0;

  /// Takes a message for rank `to`, not itself, and returns without waiting for it. Messages from one rank to another
  /// arrive in the order in which they were sent.
  virtual void send(int to, Bytes message) = 0;
  /// The next message of rank `from`, if it has arrived. Never waits.
  virtual std::optional<Bytes> try_receive(int from) = 0;
  /// Called again and again while the rank has nothing to do, `idle` seconds by now: moves messages that are under
  /// way, and gives the processor away for a while, longer the longer nothing came.
  virtual void idle(double idle) = 0;
  /// Ends all ranks at once, with this exit code where the launcher can: for when one of them answers no longer.
  virtual void abort(int exit_code) = 0;
};

}  // namespace coterie::comm
