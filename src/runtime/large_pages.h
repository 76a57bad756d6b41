#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "checkpoint/tensor_source.h"
#include "threads/pool.h"

namespace coterie::runtime {

/// Moves mapped weights into large pages while a model runs. Where the system's file cache holds a file in pages of
/// 4 kB, every 64 lines of weights cost a walk through page tables, twice over on a virtual machine: on one such
/// (Zen 4, 2 cores, November 2026) reading 1 GB went at 27 GB/s, and at 45 to 50 from pages of 2 MB.
///
/// A piece is copied to anonymous memory, which then takes the place of the file's pages at the same address: no
/// pointer changes, no bit changes, and what is resident stays the size of the weights. Files that are in large pages
/// already, or were never read, are left as they are. A little is moved after each step, so that the first token does
/// not wait for it.
class LargePages {
 public:
  /// Looks at the files that `source` maps; nothing is moved yet. `source` must outlive this. `left_out`: says of a
  /// tensor's bytes whether they stay where they are.
  explicit LargePages(
      const checkpoint::TensorSource& source, base::FunctionRef<bool(std::span<const std::byte> bytes)> left_out =
                                                  [](std::span<const std::byte>) { return false; });

  /// Moves pieces for about so long, by the workers of `pool`, while the machine keeps `spare` bytes of memory
  /// available. Must not run beside a job of the pool. Not an error, just nothing more to do: memory that is short,
  /// a system without large pages.
  /// What is not in memory is passed over, unless `read` says to read it.
  void advance(threads::Pool& pool, double seconds, int64_t spare, bool read = false);

  bool done() const { return next_ >= pieces_.size(); }
  int64_t moved_bytes() const { return moved_; }
  /// Whether this byte of a file's mapping has been moved.
  bool holds(const std::byte* at) const;

 private:
  struct Piece {
    std::byte* data;
    int64_t bytes;
  };
  bool move(threads::Pool& pool, const Piece& piece);

  std::vector<Piece> pieces_, there_;  // there_: moved
  size_t next_ = 0;
  int64_t moved_ = 0;
};

}  // namespace coterie::runtime
