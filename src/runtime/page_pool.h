#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "tensor/buffer.h"

namespace coterie::runtime {

/// Pages of one size, handed out and taken back: the memory of all KV caches of an engine. It grows by slabs and keeps
/// them, so a warm engine allocates nothing. Safe to use from several threads.
class PagePool {
 public:
  explicit PagePool(int64_t page_bytes);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  int64_t page_bytes() const { return page_bytes_; }
  /// Bytes held in slabs, used or not.
  int64_t capacity() const;
  int64_t pages_in_use() const;

  /// Appends `count` pages to `pages`; fresh ones are zero. Throws out_of_memory, with the figure, before it allocates
  /// what would not fit; nothing has been taken then.
  void take(int64_t count, std::vector<std::byte*>& pages);
  void give(std::byte* page);
  /// Throws as take() would, without taking.
  void require(int64_t count) const;

 private:
  int64_t missing_bytes(int64_t count) const;  // of slabs to be made for `count` more pages

  int64_t page_bytes_, pages_per_slab_;
  mutable std::mutex mutex_;
  std::vector<tensor::Buffer<std::byte>> slabs_;
  std::vector<std::byte*> free_;
  int64_t pages_ = 0;
};

}  // namespace coterie::runtime
