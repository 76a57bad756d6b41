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

}  // namespace coterie::laws
