#include "laws/ranks/cluster.h"

#include <utility>

#include "base/error.h"
#include "base/fnv.h"
#include "families/family.h"

namespace coterie::laws {

Cluster::Cluster(const Case& c, const tiny::Model& model, int size, const comm::Wire& wire,
                 const runtime::ModelRanks::Options& options)
    : options_(options) {
  std::vector<std::unique_ptr<comm::Communicator>> all = comm::ranks_of_one_process(size);
  // Of other splits every rank has all experts.
  const bool by_experts = options.split == runtime::Split::experts;
  const auto placement = options.placement ? options.placement : std::make_shared<const runtime::ExpertPlacement>(size);
  for (int rank = 0; rank < size; ++rank) {
    auto& one = all[static_cast<size_t>(rank)];
    if (wire.latency > 0) one = comm::delayed(std::move(one), wire);
    ranks_.push_back(std::make_unique<comm::Ranks>(std::move(one), comm::Patience{30, 60, {}}));
    decoders_.push_back(families::bind_decoder(model.decoder->spec(), *model.source, nullptr,
                                               [=](int64_t layer, int64_t expert, int64_t experts) {
                                                 return !by_experts || placement->owns(rank, layer, expert, experts);
                                               }));
  }
  model_ = std::make_unique<runtime::ModelRanks>(*ranks_.front(), *decoders_.front(), options_);
  for (int rank = 1; rank < size; ++rank) others_.emplace_back([this, rank, c] { serve(rank, c); });
}

Cluster::~Cluster() { runtime::stop_others(ranks()); }

void Cluster::serve(int rank, const Case& c) {
  threads::Pool pool(1);
  tensor::Arena arena;
  ops::Context context{pool, kernels::by_name(c.isa), arena, c.precision};
  runtime::ModelRanks model(ranks(rank), decoder(rank), options_);
  model.serve(context, [](double) {});
}

double Cluster::loss(ops::Context&, std::span<const models::SequenceStep>, const models::PassOptions&) const {
  base::fail(base::ErrorKind::unsupported, "cluster", "ranks do not train here");
}

int size_of(const Case& c) {
  uint64_t hash = base::kFnvBegin;
  for (const char letter : c.family + c.isa) hash = base::fnv_step(hash, static_cast<uint64_t>(letter));
  return 2 + static_cast<int>((hash >> 8) % 3);
}

void expect_the_bits_of_one_in_a_batch(const Case& c, const tiny::Model& model,
                                       const runtime::ModelRanks::Options& options) {
  const int64_t vocabulary = model.decoder->spec().vocabulary;
  const std::vector<int32_t> a = some_ids(7, vocabulary, 4), b = some_ids(1, vocabulary, 5);
  const auto run = [&](Runner& runner) {
    layers::ResidentState first = runner.state(), second = runner.state();
    layers::ResidentState* both[] = {&first, &second};
    const std::span<const int32_t> prompts[] = {a, b}, next[] = {b, b};
    std::vector<float> logits = runner.step(prompts, both);
    // The first leaves.
    const std::vector<float> decoded = runner.step(std::span(next).last(1), std::span(both).last(1));
    logits.insert(logits.end(), decoded.begin(), decoded.end());
    return logits;
  };
  Runner one(c, *model.decoder);
  const std::vector<float> expected = run(one);
  Cluster cluster(c, model, 6 - size_of(c), {}, options);
  Runner many(c, cluster, 1);
  expect_same_bits(run(many), expected, std::to_string(cluster.ranks().size()) + " ranks");
}

}  // namespace coterie::laws
