#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "checkpoint/tensor_sink.h"
#include "families/names/name_table.h"
#include "layers/tensor_list.h"
#include "models/decoder.h"
#include "models/spec.h"
#include "tensor/dtype.h"
#include "threads/pool.h"

namespace coterie::surgery {

/// A weight of a model that is to be written, made row by row when its turn comes: [experts, rows, cols], one expert
/// for what is not a stack, one row for a vector.
struct Rows {
  int64_t experts = 1, rows = 0, cols = 0;
  tensor::DType dtype = tensor::DType::f32;  // it is written in
  /// Row `row` of an expert as `cols` floats. Called from several threads at once; what it gives depends on nothing but
  /// its arguments.
  std::function<void(int64_t expert, int64_t row, float* values)> fill;
  std::vector<tensor::Weight> verbatim = {};  // of each expert: the bytes as they are, in place of `fill`
};

/// The weights of a decoder by their canonical paths. It must outlive this.
class Weights {
 public:
  /// Throws unsupported, naming the tensor, for block formats, which safetensors cannot hold.
  Weights(const models::Decoder& decoder, std::string where);

  /// As they are, or in `dtype`; vectors in the format of the embedding where that loses nothing, else in f32. Throws
  /// internal for a path that is not there.
  Rows rows(std::string_view path, std::optional<tensor::DType> dtype = {}) const;
  const tensor::Weight& matrix(const std::string& path) const;
  /// nullptr where there is none.
  const layers::Vector* vector(const std::string& path) const;
  tensor::DType dtype() const { return dtype_; }  // of the embedding

 private:
  class Collector;
  std::map<std::string, std::vector<tensor::Weight>, std::less<>> weights_;
  struct Floats {
    const layers::Vector* vector;
    int64_t experts, rows, cols;
  };
  std::map<std::string, Floats, std::less<>> vectors_;
  tensor::DType dtype_ = tensor::DType::f32;
};

/// Asked once for each tensor of a model's list.
using Supply = std::function<Rows(const layers::ListedTensor& tensor)>;

/// The tensors of a model of `spec` under the first names of `names`: experts one by one or stacked, gate and up
/// merged, as these have them. `pool` must outlive the result. Throws internal where the supplied rows are of another
/// shape than the model's list says.
std::vector<checkpoint::TensorToWrite> tensors_of(const models::ModelSpec& spec, const families::NameTable& names,
                                                  const Supply& supply, threads::Pool& pool);

/// Values are written as they are made, but what is known of each tensor (its name, shape and source) is in memory.
/// Throws out_of_memory, with both figures and the hint, before a list is made that would not fit.
void require_memory_for_list(const models::ModelSpec& spec, const families::NameTable& names, std::string_view hint);

/// Random numbers of one row: a function of the seed, a name and the row alone.
base::Rng row_rng(uint64_t seed, std::string_view name, int64_t expert, int64_t row);

/// One matrix [rows, cols] of `value`.
Rows constant_rows(int64_t rows, int64_t cols, tensor::DType dtype, float value = 0);
/// One matrix [rows, cols] drawn from N(0, deviation²) by row_rng of `seed` and `path`.
Rows normal_rows(int64_t rows, int64_t cols, tensor::DType dtype, float deviation, uint64_t seed,
                 const std::string& path);

}  // namespace coterie::surgery
