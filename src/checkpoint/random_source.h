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
};

/// A source in memory whose weights are drawn at random: valid blocks of the format with sane scales. For benchmarks
/// of a published shape and for laws on tiny models. Filling is parallel and reproducible for any thread count; each
/// tensor is keyed by (seed, name), so layouts of the same model hold the same values where dtypes allow.
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
