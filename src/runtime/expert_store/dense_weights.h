#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "kernels/matmul.h"
#include "models/decoder.h"
#include "runtime/expert_store/file_table.h"
#include "tensor/buffer.h"
#include "threads/pool.h"

namespace coterie::runtime {

/// All weights of a model but its routed experts, read into memory of their own, in large pages, repacked for the
/// kernels where they can be (repacked_weights.h): what every token reads stays, whatever the system does with its page
/// cache. The bits of results are those of the mapped file.
class DenseWeights {
 public:
  /// Finds them; nothing is read yet. `kernels` null: nothing is repacked. All must outlive this. Once load() has been
  /// called, the decoder must not run without it.
  DenseWeights(models::Decoder& decoder, const checkpoint::TensorSource& source, const kernels::MatmulKernels* kernels,
               FileTable& files);
  DenseWeights(const DenseWeights&) = delete;
  DenseWeights& operator=(const DenseWeights&) = delete;

  int64_t bytes() const { return bytes_; }  // that they take in memory
  int64_t repacked_bytes() const { return repacked_bytes_; }
  /// Whether this byte is of the memory that they were read into.
  bool holds(const std::byte* at) const { return at >= memory_.data() && at < memory_.data() + memory_.size(); }
  static constexpr int64_t kStaging = 16 << 20;  // that reading takes beside them

  struct Rate {
    int64_t bytes = 0;  // that were read
    double seconds = 0;
    double bytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
  };
  /// Reads all of them, and lets the decoder read them there. Throws io naming the tensor and the offset.
  Rate load(BlockReader& reader, threads::Pool& pool);

 private:
  struct Item {  // a matrix, or all weights of a stack
    std::vector<tensor::Weight> from, to;
    std::vector<int64_t> offset;  // of each in its file
    int32_t file = 0;
    bool stack = false, repack = false;
  };
  struct Chunk {  // rows of a weight that are read at once
    const Item* item;
    size_t weight;
    int64_t begin, end;
  };
  class Collector;
  struct Staging;

  std::vector<Chunk> chunks() const;
  void place(const Chunk& chunk, const std::byte* bytes, threads::Pool& pool) const;

  models::Decoder& decoder_;
  const checkpoint::TensorSource& source_;
  const kernels::MatmulKernels* kernels_;
  const FileTable& files_;
  std::vector<Item> items_;
  tensor::Buffer<std::byte> memory_;
  int64_t bytes_ = 0, repacked_bytes_ = 0;
};

}  // namespace coterie::runtime
