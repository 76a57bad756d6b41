#include "runtime/page_pool.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/memory.h"

namespace coterie::runtime {

namespace {
// Small enough that a short conversation holds little it does not use, and a large page of the system's: a cache that
// is read in pages of 4 kB waits for their addresses.
constexpr int64_t kSlabBytes = tensor::kLargePage;
}  // namespace

PagePool::PagePool(int64_t page_bytes, int64_t limit)
    : page_bytes_((page_bytes + tensor::kAlignment - 1) / tensor::kAlignment * tensor::kAlignment),
      pages_per_slab_(page_bytes_ == 0 ? 1 : std::max<int64_t>(1, (kSlabBytes + page_bytes_ - 1) / page_bytes_)),
      limit_(limit) {
  base::require(page_bytes >= 0 && limit >= 0, "page pool", "a page of {} bytes, {} in all", page_bytes, limit);
  // A limit below a slab is kept as well.
  if (limit > 0 && page_bytes_ > 0) pages_per_slab_ = std::clamp<int64_t>(limit / page_bytes_, 1, pages_per_slab_);
}

int64_t PagePool::capacity() const {
  std::lock_guard lock(mutex_);
  return std::ssize(holders_) * page_bytes_;
}

int64_t PagePool::pages_in_use() const {
  std::lock_guard lock(mutex_);
  return std::ssize(holders_) - std::ssize(free_);
}

int64_t PagePool::most_pages() const {
  if (limit_ == 0 || page_bytes_ == 0) return INT64_MAX;
  return limit_ / (pages_per_slab_ * page_bytes_) * pages_per_slab_;
}

int64_t PagePool::room() const {
  const int64_t most = most_pages();
  return most == INT64_MAX ? most : most - pages_in_use();
}

int64_t PagePool::holders(const Page& page) const {
  std::lock_guard lock(mutex_);
  return holders_[static_cast<size_t>(page.number)];
}

int64_t PagePool::missing_bytes(int64_t count) const {
  const int64_t missing = count - std::ssize(free_);
  if (missing <= 0) return 0;
  return (missing + pages_per_slab_ - 1) / pages_per_slab_ * pages_per_slab_ * page_bytes_;
}

void PagePool::require_locked(int64_t count) const {
  const int64_t bytes = missing_bytes(count);
  if (bytes == 0) return;
  const int64_t held = std::ssize(holders_) * page_bytes_;
  if (limit_ > 0 && held + bytes > limit_)
    throw base::Error(base::ErrorKind::out_of_memory, "KV cache",
                      fmt::format("{} more would be needed, {} of {} are in use", base::human_bytes(bytes),
                                  base::human_bytes(held - std::ssize(free_) * page_bytes_), base::human_bytes(limit_)),
                      "end other sequences, or give the cache more memory");
  base::require_memory(bytes, "KV cache",
                       "a smaller `context` needs less, and so does `cache_type` q8_0 where it is not set");
}

void PagePool::require(int64_t count) const {
  std::lock_guard lock(mutex_);
  require_locked(count);
}

PagePool::Page PagePool::take_locked() {
  if (free_.empty()) {
    // Zeros, so that a kernel which reads a block's unused positions and masks them meets no NaN.
    const int64_t bytes = pages_per_slab_ * page_bytes_, first = std::ssize(holders_);
    tensor::Buffer<std::byte> slab(bytes);
    if (bytes > 0) std::memset(slab.data(), 0, static_cast<size_t>(bytes));
    // So that giving a page back allocates nothing.
    free_.reserve(static_cast<size_t>(first + pages_per_slab_));
    holders_.resize(static_cast<size_t>(first + pages_per_slab_));
    for (int64_t i = pages_per_slab_ - 1; i >= 0; --i) free_.push_back({slab.data() + i * page_bytes_, first + i});
    slabs_.push_back(std::move(slab));
  }
  const Page page = free_.back();
  free_.pop_back();
  holders_[static_cast<size_t>(page.number)] = 1;
  return page;
}

void PagePool::take(int64_t count, std::vector<Page>& pages) {
  std::lock_guard lock(mutex_);
  require_locked(count);
  pages.reserve(pages.size() + static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) pages.push_back(take_locked());
}

void PagePool::share(const Page& page) {
  std::lock_guard lock(mutex_);
  ++holders_[static_cast<size_t>(page.number)];
}

void PagePool::give(const Page& page) noexcept {
  std::lock_guard lock(mutex_);
  if (--holders_[static_cast<size_t>(page.number)] == 0) free_.push_back(page);
}

PagePool::Page PagePool::own(const Page& page) {
  Page copy;
  {
    std::lock_guard lock(mutex_);
    if (holders_[static_cast<size_t>(page.number)] == 1) return page;
    require_locked(1);
    copy = take_locked();
  }
  // Nobody writes into a page that has several holders, so its bytes stay while they are copied.
  std::memcpy(copy.bytes, page.bytes, static_cast<size_t>(page_bytes_));
  give(page);
  return copy;
}

}  // namespace coterie::runtime
