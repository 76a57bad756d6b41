#include "runtime/ranks/plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/placement.h"
#include "models/spec.h"

namespace coterie::runtime {

namespace {

struct Named {
  std::string_view name;
  Network network;
};
constexpr Named kNetworks[] = {{"local", {1e-6, 8e9}},  {"rdma", {4e-6, 11e9}},   {"100g", {20e-6, 6e9}},
                               {"25g", {25e-6, 2.9e9}}, {"10g", {40e-6, 1.15e9}}, {"1g", {80e-6, 0.115e9}}};

/// A number and its unit, all of `text`; 0 where it is not that.
double measured(std::string_view text, std::initializer_list<std::pair<std::string_view, double>> units) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  if (error != std::errc() || !(value > 0) || !std::isfinite(value)) return 0;
  for (const auto& [name, factor] : units)
    if (unit == name) return value * factor;
  return 0;
}

}  // namespace

Network network_by_name(std::string_view name) {
  for (const Named& known : kNetworks)
    if (name == known.name) return known.network;
  const size_t comma = name.find(',');
  if (comma != std::string_view::npos) {
    const Network given{measured(name.substr(0, comma), {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}}),
                        measured(name.substr(comma + 1), {{"GB/s", 1e9}, {"MB/s", 1e6}, {"Gbit/s", 1e9 / 8}})};
    if (given.latency > 0 && given.rate > 0) return given;
  }
  throw base::Error(base::ErrorKind::bad_input, "network", fmt::format("\"{}\" is not the name of a network", name),
                    "local, rdma, 100g, 25g, 10g, 1g, or LATENCY,RATE such as 40us,1.15GB/s");
}

double expected_largest(int balls, int parts) {
  // P(all parts <= m) by adding one part after the other: ways[b] = number of ways for b balls over 1/b! of them.
  double mean = 0;
  for (int most = 0; most < balls; ++most) {
    std::vector<double> ways(static_cast<size_t>(balls) + 1);
    ways[0] = 1;
    for (int part = 0; part < parts; ++part) {
      std::vector<double> next(ways.size());
      for (size_t b = 0; b < ways.size(); ++b) {
        double inverse = 1;  // 1 / i!
        for (size_t i = 0; i <= static_cast<size_t>(most) && b + i < ways.size(); ++i) {
          if (i > 0) inverse /= static_cast<double>(i);
          next[b + i] += ways[b] * inverse;
        }
      }
      ways = next;
    }
    double probability = ways[static_cast<size_t>(balls)];
    for (int i = 1; i <= balls; ++i) probability *= static_cast<double>(i) / parts;
    mean += 1 - probability;
  }
  return mean;
}

RanksPlan plan_ranks(const models::ModelSpec& spec, const std::array<int64_t, models::kPlaces>& bytes,
                     const std::array<int64_t, models::kPlaces>& touched, int64_t cache_bytes_per_token,
                     int64_t context, int ranks, const Network& network, double read_rate) {
  constexpr auto kExperts = static_cast<size_t>(models::Place::experts);
  RanksPlan plan;
  plan.ranks = ranks;
  int64_t dense_touched = 0;
  for (size_t place = 0; place < bytes.size(); ++place)
    if (place != kExperts) plan.dense_bytes += bytes[place], dense_touched += touched[place];
  plan.cache_bytes = cache_bytes_per_token * context;

  // Rows travel as the experts' kernels read them: those of weights in blocks in int8 (384 bytes for 256 values).
  double values = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      values += static_cast<double>(moe->experts_with_weights() * (moe->gated ? 3 : 2) * moe->hidden) *
                static_cast<double>(moe->latent > 0 ? moe->latent : spec.width);
  const double value_bytes = static_cast<double>(bytes[kExperts]) < 1.5 * values ? 1.5 : 4;
  double share_owned = 0, share_read = 0, layers = 0;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (!moe) continue;
    const int64_t experts = moe->experts_with_weights(), k = moe->router.experts_per_token;
    const double width = static_cast<double>(moe->latent > 0 ? moe->latent : spec.width);
    const comm::Placement placement{ranks};
    int64_t most = 0;
    for (int r = 0; r < ranks; ++r) most = std::max(most, placement.end(r, experts) - placement.first(r, experts));
    const double others = static_cast<double>(ranks - 1) / ranks;
    const double owners = (ranks - 1) * (1 - std::pow(1 - 1.0 / ranks, static_cast<double>(k)));
    const double slots = static_cast<double>(k) * others;
    // A header each way; 44 bytes, and three numbers for each slot and its expert with the rows.
    const double asked = owners * (32 + 44) + 12 * slots + value_bytes * width * owners;
    const double answered = owners * 32 + 4 * width * slots;
    plan.decode_bytes += asked + answered;
    plan.decode_messages += 2 * owners;
    plan.prompt_bytes += width * (value_bytes * owners + 4 * slots) + 4 * slots;
    plan.decode_seconds += ranks > 1 ? 2 * network.latency + (asked + answered) / network.rate : 0;
    share_owned += static_cast<double>(most) / static_cast<double>(experts);
    share_read += expected_largest(static_cast<int>(k), ranks) / static_cast<double>(k);
    ++layers;
  }
  if (layers > 0) share_owned /= layers, share_read /= layers;
  plan.experts_bytes = static_cast<int64_t>(static_cast<double>(bytes[kExperts]) * share_owned);
  const double cache = static_cast<double>(cache_bytes_per_token * context) / 2;
  const double dense = static_cast<double>(dense_touched) + cache, experts = static_cast<double>(touched[kExperts]);
  plan.decode_seconds += (dense + experts * share_read) / read_rate;
  plan.decode_alone = (dense + experts) / read_rate;
  // Keys and values of a token go to all others.
  plan.prompt_bytes += static_cast<double>(cache_bytes_per_token) * (ranks - 1);
  plan.prompt_limit = plan.prompt_bytes > 0 ? ranks * network.rate / plan.prompt_bytes : 0;
  return plan;
}

}  // namespace coterie::runtime
