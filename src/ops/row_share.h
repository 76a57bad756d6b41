#pragma once

#include <cstdint>
#include <span>

#include "tensor/view.h"

namespace coterie::ops {

struct RowRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// Which outputs of each weight one of several processes (ranks) computes: the same everywhere but for `rank`.
struct RowDivision {
  int rank = 0, ranks = 1;
  int64_t least_weights = 0;  // weights of fewer elements are computed by all: not worth an exchange

  /// Whether a weight of this shape is divided, in whole panels of rows (kernels::MatmulKernels::panel_rows).
  bool divides(int64_t rows, int64_t cols, int64_t panel) const {
    return ranks > 1 && rows / panel >= ranks && rows * cols >= least_weights;
  }
  /// The same for other work: multiply-adds, in so many parts that can be told apart.
  bool divides_work(int64_t work, int64_t parts) const { return ranks > 1 && parts >= ranks && work >= least_weights; }
  /// What a rank has of `count` columns that are divided in units of `unit`.
  RowRange part(int of_rank, int64_t count, int64_t unit) const {
    const int64_t units = (count + unit - 1) / unit;
    const auto at = [&](int64_t r) { return r == ranks ? count : units * r / ranks * unit; };
    return {at(of_rank), at(of_rank + 1)};
  }
  RowRange own(int64_t count, int64_t unit) const { return part(rank, count, unit); }
  /// The rows of a weight that this rank reads.
  RowRange own_rows(int64_t rows, int64_t cols, int64_t panel) const {
    return divides(rows, cols, panel) ? own(rows, panel) : RowRange{0, rows};
  }
};

/// Several ranks that evaluate the same step with the same rows, and divide the outputs of each weight among them
/// (Context::rows; null: all are computed here). Each output is computed whole by one of them, with the kernel and in
/// the order in which one process computes it, and then gathered to all: so no bit depends on how many there are. Used
/// by the thread that runs the pass; not under a tape.
class RowShare : public RowDivision {
 public:
  explicit RowShare(const RowDivision& division) : RowDivision(division) {}
  virtual ~RowShare() = default;
  RowShare(const RowShare&) = delete;
  RowShare& operator=(const RowShare&) = delete;

  /// y [N, M], of which each rank has computed the columns part(rank, M, unit).
  struct Divided {
    tensor::Matrix y;
    int64_t unit = 1;
  };
  /// Gives this rank's columns to the others and puts theirs in their places. All ranks call it, with as many outputs
  /// of the same shapes. Throws what waiting for a rank throws (comm::Ranks).
  virtual void gather(std::span<const Divided> outputs) = 0;
  /// For outputs that rank 0 alone goes on with (logits): gathers to it; what the others have of the columns of others
  /// means nothing.
  virtual RowShare& to_first() = 0;
  /// Gives what rank 0 has to all: experts and weights that a hook on rank 0 has chosen.
  virtual void first_decides(std::span<int32_t> ids, std::span<float> weights) = 0;
};

}  // namespace coterie::ops
