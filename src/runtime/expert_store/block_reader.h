#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"

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

/// Reads under way above which none is begun that nobody waits for: a disk that has so many is busy.
inline constexpr int64_t kAheadBelow = 4;

/// Adds up the time in which something is under way.
class BusyTime {
 public:
  void begin(int64_t reads) {
    if (reads > 0 && under_way_ == 0) clock_.restart();
    under_way_ += reads;
  }
  void end() {
    if (--under_way_ == 0) seconds_ += clock_.seconds();
  }
  double seconds() const { return seconds_ + (under_way_ > 0 ? clock_.seconds() : 0); }

 private:
  int64_t under_way_ = 0;
  double seconds_ = 0;
  base::Stopwatch clock_;
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
  /// The same for what may turn out to be wanted: it begins while nothing else waits for its turn and little is under
  /// way.
  virtual void submit_ahead(std::span<const ReadPiece> pieces) = 0;
  /// Takes those of submit_ahead() back that have not begun: their tags. The others end as all reads do.
  virtual std::vector<uint64_t> withdraw() = 0;
  /// One that is done, if there is one.
  virtual std::optional<ReadDone> poll() = 0;
  /// Waits for one that is done. Something must be under way.
  virtual ReadDone wait() = 0;

  /// Seconds so far in which the disk had something to read, as far as the reader knows.
  virtual double busy_seconds() const = 0;

  /// Whether the file has another size, or was written to, since the reader was made.
  virtual bool changed(int32_t file) const = 0;
};

}  // namespace coterie::runtime
