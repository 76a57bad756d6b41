#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "runtime/expert_store/block_reader.h"

namespace coterie::runtime {

struct DiskBenchOptions {
  std::vector<int64_t> sizes = {256 << 10, 1 << 20, 4 << 20};  // bytes of a read
  std::vector<int64_t> depths = {1, 2, 4, 8, 16};              // reads under way at once
  double seconds = 15;   // of all, divided evenly; at least kDiskSeconds, since disks may be fast for a moment
  int64_t rounds = 256;  // at most, of all sizes and depths: a small file is read again until the seconds are over
  uint64_t seed = 1;     // of the order of the offsets
  std::function<void(std::string_view)> on_progress = {};
  /// Bytes that this process has read from disks so far; none where the system does not say.
  std::function<int64_t()> read_from_disks = {};
};
inline constexpr double kDiskSeconds = 10;

/// What a disk gives for reads of one size, so many under way at once.
struct DiskRate {
  int64_t size = 0, depth = 0, bytes = 0;
  double seconds = 0;  // of the whole
  double latency = 0;  // of one read, from asking to having it, on average

  double bytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

struct DiskBench {
  std::vector<DiskRate> rates;  // by size, then by depth
  int64_t bytes = 0;
  double seconds = 0;
  int64_t rounds = 0;    // how often each measurement was made
  bool checked = false;  // the system says that all of it came from a disk

  const DiskRate& fastest() const;
};

/// Reads blocks of file 0 of the reader, `file_bytes` long, in a random order, no offset twice in one measurement. A
/// file that ends before a measurement does shortens it; all are then made again, in other orders, until the seconds
/// are over. Throws bad_input for a file too short to tell anything or
/// fewer seconds than kDiskSeconds; io for a failed read, and when less came from disks than was read, since memory
/// answered then and the rate would mean nothing.
DiskBench bench_disk(BlockReader& reader, int64_t file_bytes, const DiskBenchOptions& options);

/// "read_bytes" of /proc/self/io; -1 where there is none.
int64_t bytes_read_from_disks();

}  // namespace coterie::runtime
