#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "models/account.h"
#include "models/spec.h"

namespace coterie::runtime {

/// What joins two ranks: seconds until a message arrives, and bytes a second each way.
struct Network {
  double latency = 0, rate = 0;
};
/// "1g", "10g", "25g", "100g" (TCP over Ethernet of that many Gbit/s), "rdma" (100 Gbit/s RDMA), "local" (ranks of one
/// machine), or LATENCY,RATE such as "40us,1.15GB/s". Throws bad_input for anything else. The figures behind the names
/// are of the class that TCP and RDMA reach between user programs, not measured here.
Network network_by_name(std::string_view name);

/// What experts over some ranks will cost, before any rank exists.
struct RanksPlan {
  int ranks = 1;
  int64_t dense_bytes = 0;    // of every rank
  int64_t experts_bytes = 0;  // of the rank that owns most
  int64_t cache_bytes = 0;    // of every rank, at the inspected context
  // For one token that is decoded: what rank 0 sends and gets, in the mean over tokens whose experts are drawn evenly.
  double decode_bytes = 0, decode_messages = 0;
  double decode_seconds = 0, decode_alone = 0;  // a token: over the ranks, and on one machine that holds it all
  // For one token of a prompt: what a rank sends, in the mean.
  double prompt_bytes = 0;
  double prompt_limit = 0;  // tokens a second of all ranks together, if the network were all that counts
};

/// `bytes`, `touched`: of the weights by place, held and read for a token (Inspection). `read_rate` of each machine.
///
/// A token's K experts fall on (R - 1)(1 - (1 - 1/R)^K) other ranks in the mean, K (R - 1)/R of its slots are theirs,
/// and the busiest rank computes the largest of R parts of K. Decoding: the dense weights on rank 0, then the slowest
/// rank's experts, two messages for each layer that asks others.
RanksPlan plan_ranks(const models::ModelSpec& spec, const std::array<int64_t, models::kPlaces>& bytes,
                     const std::array<int64_t, models::kPlaces>& touched, int64_t cache_bytes_per_token,
                     int64_t context, int ranks, const Network& network, double read_rate);

/// The mean of the largest of `parts` when `balls` are thrown evenly: how many of a token's experts the busiest rank
/// has.
double expected_largest(int balls, int parts);

}  // namespace coterie::runtime
