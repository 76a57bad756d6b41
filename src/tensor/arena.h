#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/buffer.h"
#include "tensor/view.h"

namespace coterie::tensor {

/// Memory for the activations of a step: taken in order, given back all at once or down to a mark. It keeps its
/// chunks, so a warm engine allocates nothing. Memory is not initialised. Not thread-safe: take before a parallel
/// section, not inside.
class Arena {
 public:
  explicit Arena(int64_t first_chunk = 1 << 20) : next_chunk_(first_chunk) {}

  Matrix matrix(int64_t rows, int64_t cols) { return {take<float>(rows * cols), rows, cols}; }

  /// `count` Ts, aligned to a cache line; valid until the arena goes back past this point.
  template <typename T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }

  struct Mark {
    size_t chunk;
    int64_t used;
  };
  Mark mark() const { return {chunk_, used_}; }
  void release(Mark mark) { chunk_ = mark.chunk, used_ = mark.used; }
  void reset() { chunk_ = 0, used_ = 0; }
  /// Where an address lies: the chunk's number, -1 for memory that is not of this arena, and the offset in it.
  struct Place {
    int64_t chunk = -1, offset = 0;
  };
  Place find(const void* address) const;
  int64_t chunk_bytes(int64_t chunk) const { return chunks_[static_cast<size_t>(chunk)].size(); }
  /// Bytes held in chunks, used or not.
  int64_t capacity() const;

 private:
  std::byte* take_bytes(int64_t bytes);

  std::vector<Buffer<std::byte>> chunks_;
  size_t chunk_ = 0;
  int64_t used_ = 0;
  int64_t next_chunk_;
};

/// Gives back on leaving the scope what was taken inside it.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace coterie::tensor
