#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/account.h"
#include "models/spec.h"
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

/// A dense model that costs what another does as far as all its weights are read by each step: of its width, with as
/// many parameters a layer in mixer and FFN as a token meets, matrices in its formats, and a vocabulary that is as much
/// smaller as it has fewer layers, so that the output embeddings, which are read in another order, have their share.
struct DenseShape {
  int64_t width = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0, layers = 0, vocabulary = 0;
  bool tied = false;                                // the output embeddings are the input's
  tensor::DType format = tensor::DType::q4_k;       // of the matrices of layers
  std::optional<tensor::DType> output_format = {};  // of the output embeddings; none: as random models have it
};
/// With so many layers that they read 0.2 GB, at most as many as it has: less would lie in caches where the model does
/// not.
DenseShape dense_shape(const models::ModelSpec& spec, const models::Account& account, tensor::DType format,
                       std::optional<tensor::DType> output_format);

/// Measures steps of up to `most` rows with a model of this shape with random weights, which is a temporary file of
/// some 0.2 GB meanwhile, in a few seconds, on so many threads; remembered in machine_file() under the CPU, the
/// instruction set, the threads and the shape. `again` ignores what is remembered; what other
/// work on the machine has upset (a step of n rows that costs more than n) is cut and not remembered. Throws
/// out_of_memory where the model does not fit.
RowCosts row_costs(int threads, const DenseShape& shape, int64_t most, bool again = false);

}  // namespace coterie::runtime
