#pragma once

#include <span>

#include "comm/inbox.h"
#include "comm/ranks.h"
#include "models/decoder.h"
#include "runtime/ranks/rank_rows.h"
#include "runtime/ranks/sequence_copies.h"

namespace coterie::runtime {

/// Steps of --split rows: every rank evaluates the same rows, and computes a part of each weight's outputs (RankRows).
/// The other ranks have copies of rank 0's sequences, which grow with them.
class RowSteps {
 public:
  RowSteps(comm::Ranks& ranks, comm::Inbox& inbox, const models::Decoder& decoder, int64_t least_weights)
      : ranks_(ranks), inbox_(inbox), decoder_(decoder), copies_(decoder.spec()), rows_(ranks, inbox, least_weights) {}

  /// Rank 0: Decoder::forward over all ranks. No sequence leaves the step before it is done. The caller tells the
  /// others of a failure.
  tensor::Matrix forward(ops::Context& context, std::span<const models::SequenceStep> steps,
                         const models::PassOptions& pass);
  /// Another rank: its part of the step that a message brings.
  void serve(ops::Context& context, comm::Message& message);
  /// Rank 0, after a step that failed.
  void forget() { copies_.forget(); }

  const RankRows& rows() const { return rows_; }

 private:
  comm::Ranks& ranks_;
  comm::Inbox& inbox_;
  const models::Decoder& decoder_;
  SequenceCopies copies_;
  RankRows rows_;
};

}  // namespace coterie::runtime
