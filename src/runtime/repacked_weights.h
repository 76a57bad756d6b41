#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "kernels/matmul.h"
#include "models/decoder.h"
#include "runtime/own_weights.h"
#include "tensor/buffer.h"
#include "threads/pool.h"

namespace coterie::runtime {

/// Repacks the rows of mapped weights for the kernels (kernels::MatmulKernels::repack) while a model runs: the same
/// bytes in another order, so no result changes, and a token costs a third fewer instructions to decode, half as many
/// in some formats (docs/design/matmul.md). A matrix, or all of a layer's experts, is copied to memory of its own bit
/// by bit, then the decoder is pointed at it and the file's pages are given back: what is resident stays the size of
/// the weights and of the one tensor under way. What the kernels do not read repacked, what lies in no file, the
/// embeddings, which are looked up row by row, and routers stay as they are.
class RepackedWeights {
 public:
  /// Nothing is repacked yet. The first three must outlive this, which points the decoder back when it goes. `own`:
  /// those that are read here; no others are repacked.
  RepackedWeights(models::Decoder& decoder, const checkpoint::TensorSource& source,
                  const kernels::MatmulKernels& kernels, const OwnWeights& own = {});
  ~RepackedWeights();
  RepackedWeights(const RepackedWeights&) = delete;
  RepackedWeights& operator=(const RepackedWeights&) = delete;

  /// Repacks for about so long, by the workers of `pool`, while the machine keeps `spare` bytes of memory available.
  /// Must not run beside a job of the pool. Tensors that are not in memory yet wait for another call, and nothing is
  /// read from the disk, unless `read` says so. Memory that is short ends it.
  void advance(threads::Pool& pool, double seconds, int64_t spare, bool read = false);

  /// Bytes that are there twice, repacked and in the file, at most: those that the decoder is not told of yet and the
  /// tensor under way.
  int64_t doubled_bytes() const;
  /// Nothing waits any more.
  bool done() const { return waiting_.empty(); }
  int64_t repacked_bytes() const { return repacked_bytes_; }
  /// Whether this part of a file has been repacked, so that nobody reads it there.
  bool holds(std::span<const std::byte> bytes) const;

 private:
  struct Part {                                     // a matrix, or a stack
    std::vector<tensor::Weight> weights, repacked;  // of one shape, in the file and in `bytes`
    ops::RowRange rows;                             // of each, that are repacked: all of them, or this rank's
    tensor::Buffer<std::byte> bytes;                // of these rows
    int64_t next = 0;                               // panel, counted through all weights
    int64_t size = 0;                               // bytes of these rows
    int looks = 0;                                  // when it was not in memory
    bool stack = false;
  };
  class Collector;

  void repack_panels(threads::Pool& pool, Part& part, int64_t count) const;
  int64_t panels_each(const Part& part) const { return part.rows.size() / kernels_.panel_rows; }
  bool make_room(Part& part, int64_t spare) const;
  /// Lets the decoder read what has been repacked since the last time.
  void point_there();

  models::Decoder& decoder_;
  const kernels::MatmulKernels& kernels_;
  std::deque<Part> waiting_;
  std::vector<Part> repacked_;
  size_t read_parts_ = 0;  // of repacked_, by the decoder
  int64_t total_bytes_ = 0, unread_bytes_ = 0, repacked_bytes_ = 0;
};

}  // namespace coterie::runtime
