#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "comm/inbox.h"
#include "comm/ranks.h"
#include "layers/layer_range.h"
#include "models/decoder.h"
#include "runtime/ranks/layer_cuts.h"
#include "runtime/ranks/sequence_copies.h"

namespace coterie::runtime {

/// Steps of --split layers: each rank has neighbouring layers, and the caches of these. The residual stream of a step's
/// rows goes from rank to rank and back to rank 0, which has the head. Rows that are apart go in groups, so that a rank
/// works on one group while the next works on the one before.
///
/// What the other ranks keep of a sequence stays there, and comes back when it is asked for
/// (SequenceState::Elsewhere): when a sequence is forked, say, or its beginning is to be shared.
class LayerSteps {
 public:
  /// `apart`: rows of a step may be evaluated in pieces, one after the other.
  LayerSteps(comm::Ranks& ranks, comm::Inbox& inbox, const models::Decoder& decoder, bool apart);
  ~LayerSteps();

  /// Rank 0: Decoder::forward over all ranks. No sequence leaves the step before it is done. The caller tells the
  /// others of a failure. An observer is shown what routers decide, the last block and the logits; of layers that are
  /// elsewhere nothing else. Throws unsupported for hooks on routers, and for drafted tokens of a model with recurrent
  /// states.
  tensor::Matrix forward(ops::Context& context, std::span<const models::SequenceStep> steps,
                         const models::PassOptions& pass);
  /// Rank 0, after a step that failed.
  void forget() { copies_.forget(); }

  /// Another rank: its layers of the step that a message brings.
  void serve(ops::Context& context, comm::Message& message);
  /// Another rank: gives rank 0 what it asks for of a sequence.
  void answer(comm::Message& message);

  LayerSpan own() const { return spans_[static_cast<size_t>(ranks_.rank())]; }
  /// Groups that the last step went in.
  int64_t groups() const { return groups_; }

 private:
  class Part;
  class Kept;
  struct Group;

  std::vector<Group> cut(std::span<const models::SequenceStep> steps, std::span<const int64_t> ends) const;
  std::vector<int64_t> ends_of_groups(int64_t rows) const;
  int neighbour(int direction) const;
  comm::Message take(int from, comm::Kind kind, int64_t number = 0);
  void send_rows(int to, int64_t group, tensor::ConstMatrix x);
  void receive_rows(int from, int64_t group, tensor::Matrix x);
  void fetch(uint64_t lineage, int64_t from, int64_t to, bool states, layers::SequenceState& into);

  comm::Ranks& ranks_;
  comm::Inbox& inbox_;
  const models::Decoder& decoder_;
  bool apart_;
  std::vector<LayerSpan> spans_;
  SequenceCopies copies_;
  std::shared_ptr<std::vector<uint64_t>> released_;       // lineages that are gone, which the others are to be told
  std::map<uint64_t, std::weak_ptr<Kept>> kept_;          // by lineage, on rank 0
  uint64_t unnamed_ = uint64_t{1} << 63;                  // lineages of sequences that have none
  double dense_bytes_ = 0, expert_bytes_ = 0, used_ = 1;  // of all layers; share of the experts that a token reads
  int64_t groups_ = 0;
};

}  // namespace coterie::runtime
