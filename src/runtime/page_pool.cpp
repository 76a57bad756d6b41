#include "runtime/page_pool.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/memory.h"

namespace coterie::runtime {

namespace {
// Small enough that a short conversation holds little it does not use, and a large page of the system's: a cache that
// is read in pages of 4 kB waits for their addresses.
constexpr int64_t kSlabBytes = tensor::kLargePage;
}  // namespace

PagePool::PagePool(int64_t page_bytes)
    : page_bytes_((page_bytes + tensor::kAlignment - 1) / tensor::kAlignment * tensor::kAlignment),
      pages_per_slab_(page_bytes_ == 0 ? 1 : std::max<int64_t>(1, (kSlabBytes + page_bytes_ - 1) / page_bytes_)) {
  base::require(page_bytes >= 0, "page pool", "a page of {} bytes", page_bytes);
}

int64_t PagePool::capacity() const {
  std::lock_guard lock(mutex_);
  return pages_ * page_bytes_;
}

int64_t PagePool::pages_in_use() const {
  std::lock_guard lock(mutex_);
  return pages_ - static_cast<int64_t>(free_.size());
}

int64_t PagePool::missing_bytes(int64_t count) const {
  const int64_t missing = count - static_cast<int64_t>(free_.size());
  if (missing <= 0) return 0;
  return (missing + pages_per_slab_ - 1) / pages_per_slab_ * pages_per_slab_ * page_bytes_;
}

void PagePool::require(int64_t count) const {
  std::lock_guard lock(mutex_);
  const int64_t bytes = missing_bytes(count);
  if (bytes > 0)
    base::require_memory(bytes, "KV cache",
                         "a smaller --context needs less, and so does --cache-type q8_0 where it is not set");
}

void PagePool::take(int64_t count, std::vector<std::byte*>& pages) {
  require(count);
  std::lock_guard lock(mutex_);
  while (static_cast<int64_t>(free_.size()) < count) {
    // Zeros, so that a kernel which reads a block's unused positions and masks them meets no NaN.
    const int64_t bytes = pages_per_slab_ * page_bytes_;
    tensor::Buffer<std::byte> slab(bytes);
    if (bytes > 0) std::memset(slab.data(), 0, static_cast<size_t>(bytes));
    for (int64_t i = pages_per_slab_ - 1; i >= 0; --i) free_.push_back(slab.data() + i * page_bytes_);
    slabs_.push_back(std::move(slab));
    pages_ += pages_per_slab_;
  }
  for (int64_t i = 0; i < count; ++i) {
    pages.push_back(free_.back());
    free_.pop_back();
  }
}

void PagePool::give(std::byte* page) {
  std::lock_guard lock(mutex_);
  free_.push_back(page);
}

}  // namespace coterie::runtime
