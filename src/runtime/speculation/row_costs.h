#pragma once

#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace coterie::runtime {

/// What a decode step of several rows costs on this machine, in steps of one row, where all weights are read by each
/// step (a dense model).
class RowCosts {
 public:
  /// `steps`: of 1, 2, … rows.
  explicit RowCosts(std::vector<double> steps) : steps_(std::move(steps)) {}
  /// 1 for one row; between measured numbers of rows along a line.
  double of(double rows) const;
  const std::vector<double>& steps() const { return steps_; }

 private:
  std::vector<double> steps_;
};

/// Measures steps of up to `most` rows with a dense model of random weights in this format, 0.2 GB of them for 4 bits,
/// in a few seconds, on so many threads; remembered in machine_file() under the CPU, the instruction set, the threads
/// and the format. `again` ignores what is remembered. Throws out_of_memory where the model does not fit.
RowCosts row_costs(int threads, tensor::DType format, int64_t most, bool again = false);

}  // namespace coterie::runtime
