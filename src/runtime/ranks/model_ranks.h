#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/inbox.h"
#include "comm/ranks.h"
#include "models/decoder.h"
#include "runtime/ranks/expert_ranks.h"
#include "runtime/ranks/layer_steps.h"
#include "runtime/ranks/row_steps.h"
#include "runtime/ranks/sequence_copies.h"
#include "runtime/ranks/shared_step.h"
#include "runtime/ranks/split.h"

namespace coterie::runtime {

/// One model on several ranks. Rank 0 has the sequences and asks; the others answer.
///
/// Split::experts: every rank has all dense weights and its own experts. A step of few rows is evaluated by rank 0,
/// which sends each row to the owners of its experts. A step of many rows, a prompt, is divided: each rank evaluates
/// neighbouring rows, gets the keys and values of those before, passes recurrent states on in the order of the tokens,
/// and is for its own rows what rank 0 is for the others. Split::rows: all evaluate the same rows (RowSteps).
/// Split::layers: each evaluates its layers (LayerSteps). All give the bits of one rank (docs/design/ranks.md).
class ModelRanks {
 public:
  struct Options {
    Split split = Split::experts;
    int64_t least_weights = 1 << 17;                        // of Split::rows, as in ops::RowDivision
    std::shared_ptr<const ExpertPlacement> placement = {};  // of Split::experts; null: neighbours on each rank
  };
  /// `decoder` must outlive it; the options are the same on all ranks.
  ModelRanks(comm::Ranks& ranks, const models::Decoder& decoder, const Options& options);
  ModelRanks(comm::Ranks& ranks, const models::Decoder& decoder) : ModelRanks(ranks, decoder, Options()) {}

  /// Rank 0: Decoder::forward over all ranks. An observer, a hook on routers and routers that look at
  /// the whole batch keep a step undivided; in a divided one no sequence leaves before it is done.
  tensor::Matrix forward(ops::Context& context, std::span<const models::SequenceStep> steps,
                         const models::PassOptions& pass);
  /// The other ranks: answers rank 0 until it says that there is nothing more to do. `done` is called after each answer
  /// with the seconds that it took, and `move` with those that rank 0 repacks weights for while nothing is evaluated.
  /// An error goes to the ranks that wait, and rank 0 decides.
  void serve(ops::Context& context, const std::function<void(double seconds)>& done,
             const std::function<void(double seconds)>& move = {});
  /// Rank 0: the others repack their weights for so long, as it does.
  void move_others(double seconds);

  /// Whether the model's routers choose token by token, so that its prompts are divided.
  bool may_divide() const { return options_.split == Split::experts && rows_are_apart_; }
  const Options& options() const { return options_; }
  /// Of Split::rows: which rows of weights are this rank's.
  const RankRows& rows() const { return row_steps_.rows(); }
  /// Of Split::layers; null otherwise.
  const LayerSteps* layers() const { return layer_steps_.get(); }
  /// Steps so far, and those of them that were divided.
  uint64_t steps() const { return inbox_.step(); }
  uint64_t divided_steps() const { return divided_; }

 private:
  bool divides(std::span<const models::SequenceStep> steps, const models::PassOptions& pass) const;
  template <typename Steps>
  tensor::Matrix forward_by(Steps& all, ops::Context& context, std::span<const models::SequenceStep> steps,
                            const models::PassOptions& pass);
  tensor::Matrix forward_divided(ops::Context& context, std::span<const models::SequenceStep> steps,
                                 const models::PassOptions& pass);
  void send_share(int to, const SharedStep& shared, bool hidden);
  void serve_share(ops::Context& context, comm::Message& message);
  ComputeExperts compute(ops::Context& context) const;
  int64_t experts_of(int64_t layer) const;
  std::vector<int64_t> block_bytes(tensor::DType dtype) const;
  void fail(const base::Error& error);

  comm::Ranks& ranks_;
  const models::Decoder& decoder_;
  Options options_;
  comm::Inbox inbox_;
  bool rows_are_apart_;  // no router looks at the whole batch
  RowCost row_cost_;
  uint64_t divided_ = 0;
  std::shared_ptr<const ExpertPlacement> placement_;
  SequenceCopies copies_;
  RowSteps row_steps_;
  std::unique_ptr<LayerSteps> layer_steps_;
};

/// Tells all other ranks that there is nothing more to do.
void stop_others(comm::Ranks& ranks);

}  // namespace coterie::runtime
