#include "runtime/ranks/measure_network.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "base/memory.h"

namespace coterie::runtime {

namespace {

constexpr int64_t kSmall = 64, kLarge = 2 << 20;

int64_t memory_of(const comm::Ranks& ranks) { return base::available_memory() / ranks.ranks_of_host(); }

/// The median of half the time that so many bytes take there and back; `memory` gets what there is on the other rank,
/// where they are many: to look for it takes longer than a message.
double one_way(comm::Ranks& ranks, int other, int64_t bytes, int times, int64_t& memory) {
  std::vector<double> seconds;
  const std::vector<std::byte> data(static_cast<size_t>(bytes));
  for (int i = 0; i < times; ++i) {
    comm::Writer message(comm::Kind::probe, 0, -1, data.size() + 8);
    message.value(bytes);
    message.array(std::span<const std::byte>(data));
    const base::Stopwatch clock;
    ranks.send(other, std::move(message));
    comm::Message reply = ranks.receive(other, {comm::Kind::probe, 0, -1});
    if (const auto there = reply.value<int64_t>(); bytes >= kLarge) memory = there;
    seconds.push_back(clock.seconds() / 2);
  }
  std::nth_element(seconds.begin(), seconds.begin() + times / 2, seconds.end());
  return seconds[static_cast<size_t>(times) / 2];
}

}  // namespace

MeasuredRanks measure_ranks(comm::Ranks& ranks) {
  MeasuredRanks measured{{0, 1e18}, memory_of(ranks)};
  Network& slowest = measured.network;
  for (int other = 1; other < ranks.size(); ++other) {
    int64_t memory = 0;
    one_way(ranks, other, kLarge, 1, memory);  // connections are made with the first message
    const double latency = one_way(ranks, other, kSmall, 101, memory);
    const double seconds = std::max(one_way(ranks, other, kLarge, 7, memory) - latency, 1e-9);
    measured.memory = std::min(measured.memory, memory);
    slowest.latency = std::max(slowest.latency, latency);
    slowest.rate = std::min(slowest.rate, static_cast<double>(kLarge) / seconds);
  }
  return measured;
}

void answer_probe(comm::Ranks& ranks, comm::Message& message) {
  const auto bytes = message.value<int64_t>();
  comm::Writer reply(comm::Kind::probe, 0, -1, static_cast<size_t>(bytes) + 8);
  reply.value(bytes >= kLarge ? memory_of(ranks) : int64_t{0});
  reply.array(message.array<std::byte>(static_cast<size_t>(bytes)));
  ranks.send(message.from(), std::move(reply));
}

}  // namespace coterie::runtime
