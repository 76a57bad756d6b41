#pragma once

#include "comm/ranks.h"
#include "runtime/ranks/plan.h"

namespace coterie::runtime {

struct MeasuredRanks {
  Network network;     // the slowest rank's
  int64_t memory = 0;  // bytes that are available to a rank, where it is least: its part of its host's
};
/// Rank 0: how long a small message takes to each other rank, and how fast large ones go: half of the time of messages
/// that come back. The others answer_probe() what they get. Some 50 ms and 16 MB a rank.
MeasuredRanks measure_ranks(comm::Ranks& ranks);
/// Sends a message of kind `probe` back to rank 0, and says what memory there is.
void answer_probe(comm::Ranks& ranks, comm::Message& message);

}  // namespace coterie::runtime
