#pragma once

#include <cstdint>

#include "comm/inbox.h"
#include "comm/ranks.h"
#include "ops/row_share.h"

namespace coterie::runtime {

/// The outputs of weights over ranks (--split rows): what ops::RowShare divides goes from each rank to all others, or
/// to rank 0, in one message for each rank and exchange. All ranks do the same exchanges of a step in the same order,
/// by which they are numbered: a rank that is elsewhere is an error, not a wrong result.
class RankRows final : public ops::RowShare {
 public:
  /// `least`: RowDivision::least_weights.
  RankRows(comm::Ranks& all, comm::Inbox& inbox, int64_t least);

  /// The step that Inbox::begin was told of.
  void begin() { exchanges_ = 0; }
  /// Exchanges of this step so far.
  int64_t exchanges() const { return exchanges_; }

  void gather(std::span<const Divided> outputs) override { exchange(outputs, false); }
  ops::RowShare& to_first() override { return first_; }
  void first_decides(std::span<int32_t> ids, std::span<float> weights) override;

  /// Bytes of the payload in which a rank sends its columns of y [rows, columns].
  int64_t payload(int of_rank, int64_t rows, int64_t columns, int64_t unit) const;

 private:
  /// The same division, gathered to rank 0.
  class ToFirst final : public ops::RowShare {
   public:
    explicit ToFirst(RankRows& of) : RowShare(static_cast<const ops::RowDivision&>(of)), of_(of) {}
    void gather(std::span<const Divided> outputs) override { of_.exchange(outputs, true); }
    ops::RowShare& to_first() override { return *this; }
    void first_decides(std::span<int32_t> ids, std::span<float> weights) override { of_.first_decides(ids, weights); }

   private:
    RankRows& of_;
  };

  void exchange(std::span<const Divided> outputs, bool to_first);
  comm::Message take(std::span<const char> waiting);

  comm::Ranks& ranks_;
  comm::Inbox& inbox_;
  ToFirst first_;
  int64_t exchanges_ = 0;
};

}  // namespace coterie::runtime
