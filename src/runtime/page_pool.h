#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "tensor/buffer.h"

namespace coterie::runtime {

/// Pages of one size, handed out and taken back: the memory of all KV caches of an engine. A page may have several
/// holders, who then only read it. The pool grows by slabs and keeps them, so a warm engine allocates nothing. Safe to
/// use from several threads.
class PagePool {
 public:
  struct Page {
    std::byte* bytes = nullptr;
    int64_t number = 0;
  };

  /// `limit`: bytes that its slabs may come to; 0 = what the machine has.
  explicit PagePool(int64_t page_bytes, int64_t limit = 0);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  int64_t page_bytes() const { return page_bytes_; }
  /// Bytes held in slabs, used or not.
  int64_t capacity() const;
  /// Pages that somebody holds, each counted once.
  int64_t pages_in_use() const;
  /// Pages that could be in use at once within the limit, and how many more could be taken now. Without a limit both
  /// are the largest number: then the machine decides.
  int64_t most_pages() const;
  int64_t room() const;
  /// How many hold a page.
  int64_t holders(const Page& page) const;

  /// Appends `count` pages to `pages`; fresh ones are zero. Throws out_of_memory, with the figure, before it allocates
  /// what would not fit; nothing has been taken then.
  void take(int64_t count, std::vector<Page>& pages);
  /// Another holder of the page.
  void share(const Page& page);
  void give(const Page& page) noexcept;
  /// A page with the same bytes that nobody else holds, in the place of one that the caller holds: the same one, or a
  /// copy. Throws out_of_memory as take() does; the caller's page is as it was then.
  Page own(const Page& page);
  /// Throws as take() would, without taking.
  void require(int64_t count) const;

 private:
  int64_t missing_bytes(int64_t count) const;  // of slabs to be made for `count` more pages
  void require_locked(int64_t count) const;
  Page take_locked();

  int64_t page_bytes_, pages_per_slab_, limit_;
  mutable std::mutex mutex_;
  std::vector<tensor::Buffer<std::byte>> slabs_;
  std::vector<Page> free_;
  std::vector<int32_t> holders_;  // by a page's number
};

}  // namespace coterie::runtime
