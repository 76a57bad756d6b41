#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layers/sequence_state.h"
#include "layers/specs.h"
#include "ops/attention.h"
#include "tensor/buffer.h"

namespace coterie::layers {

/// The trivial SequenceState: each layer's cache blocks in memory of their own, as many as asked for. For tests,
/// training and tools; runtime has the one that pages.
class ResidentState : public SequenceState {
 public:
  /// `block_bytes[layer]`: ops::CacheLayout::block_bytes() of that layer, 0 for a layer without a cache;
  /// `state_floats[layer]`: of its recurrent state, empty when no layer has one.
  ResidentState(std::vector<int64_t> block_bytes, tensor::DType dtype, const std::vector<int64_t>& state_floats = {});

  int64_t length() const override { return length_; }
  tensor::DType cache_dtype() const override { return dtype_; }
  std::span<std::byte* const> blocks(int64_t layer) override { return layers_[static_cast<size_t>(layer)].pointers; }

  std::span<float> recurrent(int64_t layer) override { return layers_[static_cast<size_t>(layer)].recurrent.span(); }

  /// Makes room for `rows` more positions: before each step.
  void reserve(int64_t rows);
  void make_room(int64_t rows) override { reserve(rows); }
  /// After each step.
  void advance(int64_t rows) override { length_ += rows; }
  void abandon() override;
  /// Copies the recurrent states: truncate() can go back to here. One copy is kept, the latest.
  void remember();
  /// Forgets the positions from `length` on. With recurrent states `length` must be 0, the present one or the one
  /// remembered.
  void truncate(int64_t length);

 private:
  struct Layer {
    std::vector<tensor::Buffer<std::byte>> blocks;
    std::vector<std::byte*> pointers;
    tensor::Buffer<float> recurrent, remembered;
  };
  bool is_recurrent() const;
  void forget();

  std::vector<int64_t> block_bytes_;
  tensor::DType dtype_;
  std::vector<Layer> layers_;
  int64_t length_ = 0, remembered_ = 0;
};

}  // namespace coterie::layers
