#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/ranks/layer_cuts.h"
#include "runtime/ranks/model_ranks.h"
#include "runtime/ranks/plan.h"

namespace coterie::runtime {

namespace {

using models::Place;

constexpr auto kExperts = static_cast<size_t>(Place::experts);
constexpr auto kEmbeddings = static_cast<size_t>(Place::input_embeddings);
constexpr double kFloat = sizeof(float);
constexpr double kStepTokens = 512, kAnswer = 128;

/// Of Split::rows, for one token: exchanges, and floats that are gathered in them.
struct Exchanges {
  double count = 0, floats = 0;
  void add(double outputs) { ++count, floats += outputs; }
};

struct MixerExchanges {
  const PlannedModel& model;
  Exchanges& total;

  void operator()(const layers::AttentionSpec& a) const {
    const double q = static_cast<double>(a.heads * a.head_dim), kv = static_cast<double>(a.kv_heads);
    total.add(q + kv * static_cast<double>(a.head_dim + a.value_dim));
    const double heads = static_cast<double>(a.heads) * static_cast<double>(a.head_dim + a.value_dim);
    const auto least = static_cast<double>(ModelRanks::Options().least_weights);
    if (heads * static_cast<double>(model.context) / 2 / 4 >= least)
      total.add(static_cast<double>(a.heads * a.value_dim));
    total.add(static_cast<double>(model.spec.width));
  }
  void operator()(const layers::LatentAttentionSpec& a) const {
    total.add(static_cast<double>(a.q_rank + a.kv_rank + a.rope_dim));
    total.add(static_cast<double>(a.heads * (a.nope_dim + a.rope_dim)));
    total.add(static_cast<double>(model.spec.width));
  }
  void operator()(const layers::NoMixerSpec&) const {}
  // What goes in is some times the width, what comes out is the width.
  template <typename Recurrent>
  void operator()(const Recurrent&) const {
    total.add(3 * static_cast<double>(model.spec.width));
    total.add(static_cast<double>(model.spec.width));
  }
};

Exchanges exchanges_of(const PlannedModel& model) {
  Exchanges total;
  const auto width = static_cast<double>(model.spec.width);
  for (const models::BlockSpec& block : model.spec.blocks) {
    std::visit(MixerExchanges{model, total}, block.mixer);
    if (const auto* dense = std::get_if<layers::DenseFfnSpec>(&block.ffn))
      total.add(static_cast<double>(dense->hidden)), total.add(width);
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      total.add(static_cast<double>(moe->router.experts_per_token * moe->hidden)), total.add(width);
      if (moe->shared_hidden > 0) total.add(static_cast<double>(moe->shared_hidden)), total.add(width);
    }
  }
  return total;
}

double sum(const std::array<int64_t, models::kPlaces>& bytes) {
  return static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), int64_t{0}));
}

}  // namespace

std::array<SplitPlan, kSplits.size()> plan_splits(const PlannedModel& model, int ranks, const Network& network,
                                                  const RankSpeeds& speeds) {
  const double r = ranks, others = (r - 1) / r,
               cache = static_cast<double>(model.cache_bytes_per_token * model.context);
  const double held = sum(model.bytes), touched = sum(model.touched) + cache / 2;
  // A token's share of a step of a prompt, on one machine.
  const double work =
      2 * static_cast<double>(model.parameters_touched) / speeds.operations + held / speeds.read / kStepTokens;

  const RanksPlan of_experts = plan_ranks(model.spec, model.bytes, model.touched, model.cache_bytes_per_token,
                                          model.context, ranks, network, speeds.read);
  SplitPlan experts{.split = Split::experts};
  experts.memory = of_experts.dense_bytes + of_experts.experts_bytes + of_experts.cache_bytes;
  experts.decode_seconds = of_experts.decode_seconds, experts.decode_bytes = of_experts.decode_bytes;
  experts.prompt_seconds = (work + (ranks > 1 ? of_experts.prompt_bytes / network.rate : 0)) / r;

  SplitPlan rows{.split = Split::rows};
  const Exchanges exchanges = exchanges_of(model);
  const double head = static_cast<double>(model.spec.vocabulary) * kFloat * others;
  // Tables that are only looked up are not divided; of those nothing but some rows is read.
  const double divided = held - static_cast<double>(model.spec.tied_embeddings ? 0 : model.bytes[kEmbeddings]);
  rows.memory = static_cast<int64_t>(divided / r + cache);
  rows.decode_bytes = ranks > 1 ? 2 * exchanges.floats * kFloat * others + head : 0;
  rows.decode_seconds = touched / r / speeds.read;
  if (ranks > 1)
    rows.decode_seconds +=
        (exchanges.count + 1) * network.latency + (exchanges.floats * kFloat * others + head) / network.rate;
  rows.prompt_seconds = work / r + (ranks > 1 ? exchanges.floats * kFloat * others / network.rate : 0);

  SplitPlan layers{.split = Split::layers};
  const double hop = network.latency + static_cast<double>(model.spec.width) * kFloat / network.rate;
  std::vector<char> anywhere(model.layer_bytes.size(), 1);
  const int64_t in_layers = std::accumulate(model.layer_bytes.begin(), model.layer_bytes.end(), int64_t{0});
  const int64_t outside = static_cast<int64_t>(divided) - in_layers;
  int64_t of_rank = static_cast<int64_t>(cache) + std::max<int64_t>(outside, 0);
  for (const LayerSpan& span : cut_layers(model.layer_bytes, std::max<int64_t>(outside, 0), anywhere, ranks)) {
    int64_t own = std::exchange(of_rank, 0);  // rank 0's
    for (int64_t l = span.first; l < span.end; ++l) own += model.layer_bytes[static_cast<size_t>(l)];
    layers.memory = std::max(layers.memory, own);
  }
  layers.decode_seconds = touched / speeds.read + (ranks > 1 ? r * hop : 0);
  layers.decode_bytes = ranks > 1 ? 2 * static_cast<double>(model.spec.width) * kFloat : 0;
  const double groups = 4 * r;
  layers.prompt_seconds = work / r * (groups + r - 1) / groups +
                          (ranks > 1 ? static_cast<double>(model.spec.width) * kFloat / network.rate : 0);
  return {experts, rows, layers};
}

double request_seconds(const SplitPlan& plan) {
  return kStepTokens * plan.prompt_seconds + kAnswer * plan.decode_seconds;
}

const SplitPlan& best_split(std::span<const SplitPlan> plans, int64_t memory) {
  const SplitPlan* best = nullptr;
  for (const SplitPlan& plan : plans)
    if (plan.memory <= memory && (!best || request_seconds(plan) < request_seconds(*best))) best = &plan;
  if (best) return *best;
  return *std::min_element(plans.begin(), plans.end(),
                           [](const SplitPlan& a, const SplitPlan& b) { return a.memory < b.memory; });
}

}  // namespace coterie::runtime
