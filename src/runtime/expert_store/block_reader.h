#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace coterie::runtime {

/// One read of a file into memory. `offset`, `bytes` and `to` are whole units of the reader; the last unit of a file
/// may be cut off by its end.
struct ReadPiece {
  int32_t file = 0;  // of those the reader was made for
  int64_t offset = 0, bytes = 0;
  std::byte* to = nullptr;
  uint64_t tag = 0;  // the caller's, returned with the result
};

/// What became of one.
struct ReadDone {
  uint64_t tag = 0;
  int64_t bytes = 0;  // that are there now, from the piece's first on; fewer than asked for at the end of the file
  int error = 0;      // errno; 0: none
};

/// Reads pieces of files side by side, many under way at once, which finish in any order. Used by one thread.
class BlockReader {
 public:
  /// Waits for what is under way.
  virtual ~BlockReader() = default;

  /// "threads", "uring": how, for reports.
  virtual std::string_view name() const = 0;
  /// Whether the disk writes into the memory itself (O_DIRECT); otherwise by way of the system's page cache.
  virtual bool direct() const = 0;
  /// What offsets, lengths and addresses are multiples of; a power of two.
  virtual int64_t unit() const = 0;

  /// Begins to read them, in this order as far as the reader has one. Does not wait.
  virtual void submit(std::span<const ReadPiece> pieces) = 0;
  /// One that is done, if there is one.
  virtual std::optional<ReadDone> poll() = 0;
  /// Waits for one that is done. Something must be under way.
  virtual ReadDone wait() = 0;

  /// Whether the file has another size, or was written to, since the reader was made.
  virtual bool changed(int32_t file) const = 0;
};

}  // namespace coterie::runtime
