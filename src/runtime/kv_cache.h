#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "layers/sequence_state.h"
#include "models/spec.h"
#include "ops/attention.h"
#include "runtime/page_pool.h"
#include "runtime/recurrent_states.h"
#include "tensor/dtype.h"

namespace coterie::runtime {

/// How 16 positions of all layers lie in one page: the blocks of the layers one after another. A page is what a prefix
/// can be shared by and what can be paged out, so it holds every layer.
struct CacheShape {
  tensor::DType dtype = tensor::DType::f16;
  std::vector<int64_t> offset;  // [L+1]: layer l's block is at [offset[l], offset[l+1]) of a page
  StateShape state;             // of the layers that keep a state instead of, or beside, keys and values

  int64_t layers() const { return static_cast<int64_t>(offset.size()) - 1; }
  int64_t page_bytes() const { return offset.back(); }
  /// Bytes one position takes, all layers together.
  int64_t position_bytes() const { return page_bytes() / ops::kCacheBlock; }
};
/// Refuses a dtype other than f32, f16, bf16 and q8_0.
CacheShape cache_shape(const models::ModelSpec& spec, tensor::DType dtype);

/// Bytes of a cache of `positions` positions, rounded up to whole pages, its recurrent states included, and as many
/// copies of them as it may come to keep.
int64_t cache_bytes(const CacheShape& shape, int64_t positions);

/// What one sequence carries: keys and values in pages from a pool, which grow when asked and are given back when cut,
/// and recurrent states with the snapshots that going back needs. Sequences that begin alike may share pages (fork):
/// whoever writes into one that others hold gets a copy first.
class KvCache final : public layers::SequenceState {
 public:
  KvCache(std::shared_ptr<const CacheShape> shape, std::shared_ptr<PagePool> pool);
  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&& other) noexcept;
  ~KvCache() override;

  int64_t length() const override { return length_; }
  uint64_t lineage() const override { return lineage_; }
  Origin origin() const override { return origin_; }
  void keep_elsewhere(std::shared_ptr<Elsewhere> other) override { elsewhere_ = std::move(other); }
  tensor::DType cache_dtype() const override { return shape_->dtype; }
  std::span<std::byte* const> blocks(int64_t layer) override;
  std::span<float> recurrent(int64_t layer) override { return states_.layer(layer); }

  /// A sequence of the same tokens, which goes on by itself from here: it shares the pages, and has the recurrent
  /// states and their snapshots. Throws out_of_memory when the states do not fit.
  KvCache fork() const;

  /// Makes room for `positions` positions in all, of which those from length() on are about to be written. Throws
  /// out_of_memory before it allocates what would not fit.
  void reserve(int64_t positions);
  void make_room(int64_t rows) override { reserve(length_ + rows); }
  /// After a step has written `rows` more positions; they must have been reserved. Remembers the recurrent states at
  /// multiples of the snapshots' interval.
  void advance(int64_t rows) override;
  /// The next step evaluates `rows` more positions of which the last may turn out to be wrong: it can go back to after
  /// each of them, by settle(), which must follow the step. Throws out_of_memory when the copies of the recurrent
  /// states do not fit.
  void try_rows(int64_t rows);
  /// Keeps the first `length` positions, which end in the rows of the step just taken. Whole pages beyond go back.
  void settle(int64_t length);
  std::span<float> recurrent_after(int64_t layer, int64_t row) override;

  /// Forgets the positions from `length` on (a rollback); whole pages go back to the pool. With recurrent states it
  /// forgets those after the last snapshot at or before `length`, too. Returns the length that is left.
  int64_t truncate(int64_t length);
  void abandon() override;
  /// Whole pages that others have computed of this very sequence, shared by it from now on: they are its first
  /// `positions`, which are more than length(). `state`: the recurrent states after them, null where there are none.
  /// What it had computed itself beyond whole pages is given back.
  void adopt(std::span<const PagePool::Page> pages, int64_t positions, std::shared_ptr<tensor::Buffer<float>> state);
  /// `same` in the place of a page of its own that holds the same bits, so that one of the two is free.
  void replace_page(size_t number, const PagePool::Page& same);
  /// Those of its positions, in order, and perhaps some that are only reserved; none for models without keys.
  std::span<const PagePool::Page> pages() const { return pages_; }
  /// Called before what its pages hold is read: what other ranks keep of it comes back, if there is any.
  void fetch() const {
    // What it holds does not change by that, only where it lies.
    if (elsewhere_) elsewhere_->fetch(const_cast<KvCache&>(*this));
  }
  /// Its recurrent states as they are, for others to adopt.
  std::shared_ptr<tensor::Buffer<float>> copy_of_states() const {
    fetch();
    return states_.copy(length_);
  }

  /// Makes a snapshot here.
  void remember() {
    if (has_states()) fetch();
    states_.remember(length_);
  }
  /// Positions until the next snapshot: a step that does not cross it leaves one there. Without recurrent states
  /// there is none, and this is the largest number.
  int64_t until_snapshot() const;
  bool has_states() const { return shape_->state.floats() > 0; }
  std::vector<int64_t> snapshots() const { return states_.snapshots(); }
  /// Bytes that this sequence alone holds: pages that no other does, its recurrent states, and snapshots of its own.
  int64_t own_bytes() const;

 private:
  KvCache(std::shared_ptr<const CacheShape> shape, std::shared_ptr<PagePool> pool, RecurrentStates states);
  void point_at(size_t first);  // blocks_ at pages_ from the page `first` on
  void give_back(size_t pages_kept) noexcept;
  static uint64_t next_lineage();
  void begin_lineage(int64_t kept);

  std::shared_ptr<const CacheShape> shape_;
  std::shared_ptr<PagePool> pool_;
  std::vector<PagePool::Page> pages_;
  std::vector<std::vector<std::byte*>> blocks_;  // [L][pages]: pages_[p].bytes + offset[l]
  RecurrentStates states_;
  int64_t length_ = 0;
  int64_t tried_ = 0;  // rows of a step that settle() is to follow
  uint64_t lineage_ = next_lineage();
  bool advanced_ = false;  // positions have been added to this lineage
  Origin origin_;
  std::shared_ptr<Elsewhere> elsewhere_;
};

}  // namespace coterie::runtime
