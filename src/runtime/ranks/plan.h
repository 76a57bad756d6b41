#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "models/account.h"
#include "models/spec.h"
#include "runtime/ranks/split.h"

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

/// What a split would cost, before any rank exists.
struct SplitPlan {
  Split split = Split::experts;
  int64_t memory = 0;         // of the rank that needs most: the weights that it reads, and the cache
  double decode_seconds = 0;  // a token of one text
  double decode_bytes = 0;    // that one rank sends for it and gets, where it is most
  double prompt_seconds = 0;  // a token of a long prompt, all ranks together
};

/// What the plans go by.
struct PlannedModel {
  const models::ModelSpec& spec;
  std::array<int64_t, models::kPlaces> bytes{}, touched{};  // by place, held and read for a token (Inspection)
  std::vector<int64_t> layer_bytes;                         // [L], of the weights held
  int64_t parameters_touched = 0;                           // for a token
  int64_t cache_bytes_per_token = 0, context = 0;
};
/// What a rank can do: bytes that it reads from memory a second, and multiply-adds, two operations each.
struct RankSpeeds {
  double read = 0, operations = 0;
};

/// Of a text whose cache is half full. `ranks` 1: what one machine would do that holds it all, three times.
///
/// Split::rows: a part of every weight is read; each exchange costs the network's latency, and what a rank gets: the
/// others' parts of the outputs. Split::layers: all weights are read one after the other; R hops of a row, and in a
/// prompt 4 R groups on their way at once. Arithmetic of prompts is counted at the machine's limit, and their weights
/// as read once for 512 tokens.
std::array<SplitPlan, kSplits.size()> plan_splits(const PlannedModel& model, int ranks, const Network& network,
                                                  const RankSpeeds& speeds);
/// Seconds of a request of 512 tokens that is answered by 128: what splits are compared by.
double request_seconds(const SplitPlan& plan);
/// The plan of the fastest request of those that fit into `memory` bytes a rank, or where none does of the one that
/// needs least.
const SplitPlan& best_split(std::span<const SplitPlan> plans, int64_t memory);

/// The mean of the largest of `parts` when `balls` are thrown evenly: how many of a token's experts the busiest rank
/// has.
double expected_largest(int balls, int parts);

}  // namespace coterie::runtime
