#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"

namespace coterie::comm {

/// A wire between two ranks.
struct Wire {
  double latency = 0;  // seconds until the first byte is there
  double rate = 0;     // bytes a second of each direction of each pair of ranks; 0: not limited
  // Adds up to as much again as `latency`, drawn for each message, so that messages of different ranks overtake each
  // other; 0: nothing is drawn.
  uint64_t seed = 0;
};

/// The same communicator as if its ranks were joined by `wire`: a message is received no sooner than
/// latency + bytes / rate after it was sent, and after those before it. For ranks of one machine, all of which must be
/// given it, since the time of sending travels with the message.
std::unique_ptr<Communicator> delayed(std::unique_ptr<Communicator> ranks, const Wire& wire);

}  // namespace coterie::comm
