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
#include "tensor/dtype.h"

namespace coterie::runtime {

/// How 16 positions of all layers lie in one page: the blocks of the layers one after another. A page is what a prefix
/// can be shared by and what can be paged out, so it holds every layer.
struct CacheShape {
  tensor::DType dtype = tensor::DType::f16;
  std::vector<int64_t> offset;  // [L+1]: layer l's block is at [offset[l], offset[l+1]) of a page

  int64_t layers() const { return static_cast<int64_t>(offset.size()) - 1; }
  int64_t page_bytes() const { return offset.back(); }
  /// Bytes one position takes, all layers together.
  int64_t position_bytes() const { return page_bytes() / ops::kCacheBlock; }
};
/// Refuses a dtype other than f32, f16 and bf16.
CacheShape cache_shape(const models::ModelSpec& spec, tensor::DType dtype);

/// Bytes of a cache of `positions` positions, rounded up to whole pages.
int64_t cache_bytes(const CacheShape& shape, int64_t positions);

/// One sequence's keys and values, in pages from a pool. Grows when asked, gives back when cut.
class KvCache final : public layers::SequenceState {
 public:
  KvCache(std::shared_ptr<const CacheShape> shape, std::shared_ptr<PagePool> pool);
  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&& other) noexcept;
  ~KvCache() override;

  int64_t length() const override { return length_; }
  tensor::DType cache_dtype() const override { return shape_->dtype; }
  std::span<std::byte* const> blocks(int64_t layer) override;

  /// Makes room for `positions` positions in all. Throws out_of_memory before it allocates what would not fit.
  void reserve(int64_t positions);
  /// After a step has written `rows` more positions; they must have been reserved.
  void advance(int64_t rows);
  /// Forgets the positions from `length` on (a rollback); whole pages go back to the pool.
  void truncate(int64_t length);

 private:
  void give_back(size_t pages_kept) noexcept;

  std::shared_ptr<const CacheShape> shape_;
  std::shared_ptr<PagePool> pool_;
  std::vector<std::byte*> pages_;
  std::vector<std::vector<std::byte*>> blocks_;  // [L][pages]: pages_[p] + offset[l]
  int64_t length_ = 0;
};

}  // namespace coterie::runtime
