#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "comm/delayed.h"
#include "comm/threads.h"
#include "laws/models/bench.h"
#include "runtime/ranks/model_ranks.h"

namespace coterie::laws {

/// A model over `size` ranks of this process. It is the decoder of rank 0, which this thread is; each other rank has a
/// thread, kernels and a decoder of its own; of Split::experts only its experts are bound there.
class Cluster final : public models::Decoder {
 public:
  Cluster(const Case& c, const tiny::Model& model, int size, const comm::Wire& wire = {},
          const runtime::ModelRanks::Options& options = {});
  ~Cluster() override;
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  runtime::ModelRanks& model() { return *model_; }
  comm::Ranks& ranks(int rank = 0) { return *ranks_[static_cast<size_t>(rank)]; }
  models::Decoder& decoder(int rank) { return *decoders_[static_cast<size_t>(rank)]; }

  const models::ModelSpec& spec() const override { return decoders_.front()->spec(); }
  tensor::Matrix forward(ops::Context& context, std::span<const models::SequenceStep> steps,
                         const models::PassOptions& options) const override {
    return model_->forward(context, steps, options);
  }
  double loss(ops::Context&, std::span<const models::SequenceStep>, const models::PassOptions&) const override;
  void read(layers::TensorReader& reader) const override { decoders_.front()->read(reader); }
  void rebind(layers::TensorVisitor& visitor) override { decoders_.front()->rebind(visitor); }
  void weights_changed() override { decoders_.front()->weights_changed(); }
  bool cache_holds(int64_t before, int64_t after) const override {
    return decoders_.front()->cache_holds(before, after);
  }

 private:
  void serve(int rank, const Case& c);

  runtime::ModelRanks::Options options_;
  std::vector<std::unique_ptr<comm::Ranks>> ranks_;
  std::vector<std::unique_ptr<models::Decoder>> decoders_;
  std::unique_ptr<runtime::ModelRanks> model_;
  std::vector<std::jthread> others_;
};

/// 2 to 4, another for the next case: all of them occur with every kind of case.
int size_of(const Case& c);

/// Two sequences in one step, then the second alone, over ranks (6 - size_of()) and by one: the same bits.
void expect_the_bits_of_one_in_a_batch(const Case& c, const tiny::Model& model,
                                       const runtime::ModelRanks::Options& options = {});

}  // namespace coterie::laws
