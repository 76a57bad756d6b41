#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

/// A tensor to be made up.
struct RandomTensor {
  std::string name;
  tensor::DType dtype;
  tensor::Shape shape;
  float scale = 1;  // standard deviation of the values (their mean is `offset`)
  float offset = 0;
  float row_spread = 0;  // of a matrix in f32: each row is multiplied by exp(row_spread * N(0, 1))
};

/// A source in memory whose weights are drawn at random: valid blocks of the format, with scales that vary between
/// blocks and give the values the standard deviation asked for (to about a percent). For benchmarks of a published
/// shape and for laws on tiny models. Each tensor is keyed by (seed, name, dtype): the same bytes for any thread count
/// and whatever else the source holds. Filled in parallel at the speed of memory.
///
/// Throws unsupported for a dtype that is not a weight format, for an offset in a block format and for a spread of rows
/// that are not f32, bad_input for names given twice, shapes that do not fit the format and scales that are not finite
/// and >= 0, out_of_memory before anything is allocated.
std::unique_ptr<TensorSource> random_source(std::vector<RandomTensor> tensors, Metadata metadata, uint64_t seed,
                                            int threads = 0);

/// A source over tensors that the caller built, which it keeps alive: for tests and tools.
struct MemoryTensor {
  std::string name;
  tensor::DType dtype;
  tensor::Shape shape;
  std::vector<std::byte> bytes;
};
std::unique_ptr<TensorSource> memory_source(std::vector<MemoryTensor> tensors, Metadata metadata = {},
                                            Format format = Format::memory, std::string where = "memory");

}  // namespace coterie::checkpoint
