#include "runtime/disk_bench.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "tensor/buffer.h"

namespace coterie::runtime {

namespace {

using base::ErrorKind;
using base::human_bytes;

constexpr int64_t kLeastReads = 32;  // of a measurement
constexpr double kFromMemory = 0.9;  // below this share of bytes from the disk, memory answered

/// The blocks of a file in an order that visits each once: i ↦ (a i + b) mod n, a without a common divisor with n.
class Order {
 public:
  Order(int64_t blocks, base::Rng& rng) : blocks_(blocks) {
    // Steps of about the golden ratio of the file are far from each other for long.
    step_ = std::max<int64_t>(static_cast<int64_t>(0.618034 * static_cast<double>(blocks)), 1);
    while (std::gcd(step_, blocks_) != 1) ++step_;
    at_ = static_cast<int64_t>(rng.below(static_cast<uint32_t>(std::min<int64_t>(blocks, UINT32_MAX))));
  }
  int64_t next() { return std::exchange(at_, (at_ + step_) % blocks_); }

 private:
  int64_t blocks_, step_ = 1, at_ = 0;
};

class Measurement {
 public:
  Measurement(BlockReader& reader, int64_t file_bytes, int64_t size, int64_t depth, double seconds, base::Rng& rng)
      : reader_(reader),
        blocks_(file_bytes / size),
        order_(blocks_, rng),
        seconds_(seconds),
        room_((depth + 1) * size + reader.unit()),
        asked_(static_cast<size_t>(depth)) {
    rate_.size = size, rate_.depth = depth;
    const auto unit = static_cast<uintptr_t>(reader.unit());
    const auto address = reinterpret_cast<uintptr_t>(room_.data());
    to_ = room_.data() + (unit - address % unit) % unit;
  }
  // A reader must not write into memory that is gone.
  ~Measurement() {
    for (; under_way_ > 0; --under_way_) reader_.wait();
  }

  DiskRate run() {
    for (int64_t i = 0; i < rate_.depth; ++i) ask(static_cast<uint64_t>(i));
    double latencies = 0;
    int64_t reads = 0;
    while (under_way_ > 0) {
      const ReadDone done = reader_.wait();
      --under_way_;
      if (done.error != 0 || done.bytes != rate_.size)
        base::fail(ErrorKind::io, "bench.disk", "a read of {} gave {}: {}", human_bytes(rate_.size),
                   human_bytes(done.bytes),
                   done.error != 0 ? std::strerror(done.error) : "the file has become shorter");
      latencies += clock_.seconds() - asked_[done.tag];
      rate_.bytes += done.bytes, ++reads;
      if (clock_.seconds() < seconds_) ask(done.tag);
    }
    rate_.seconds = clock_.seconds();
    rate_.latency = latencies / static_cast<double>(reads);
    return rate_;
  }

 private:
  void ask(uint64_t place) {
    if (started_ == blocks_) return;  // no offset twice
    ++started_, ++under_way_;
    asked_[place] = clock_.seconds();
    const ReadPiece piece{.file = 0,
                          .offset = order_.next() * rate_.size,
                          .bytes = rate_.size,
                          .to = to_ + static_cast<int64_t>(place) * rate_.size,
                          .tag = place};
    reader_.submit({&piece, 1});
  }

  BlockReader& reader_;
  int64_t blocks_;
  Order order_;
  double seconds_;
  tensor::Buffer<std::byte> room_;
  std::byte* to_ = nullptr;
  std::vector<double> asked_;  // when, of each read under way
  int64_t started_ = 0, under_way_ = 0;
  DiskRate rate_;
  base::Stopwatch clock_;
};

}  // namespace

int64_t bytes_read_from_disks() {
  std::ifstream file("/proc/self/io");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("read_bytes: ")) return std::stoll(line.substr(12));
  return -1;
}

const DiskRate& DiskBench::fastest() const {
  return *std::max_element(rates.begin(), rates.end(), [](const DiskRate& a, const DiskRate& b) {
    return a.bytes_per_second() < b.bytes_per_second();
  });
}

DiskBench bench_disk(BlockReader& reader, int64_t file_bytes, const DiskBenchOptions& options) {
  if (options.seconds < kDiskSeconds)
    base::fail(ErrorKind::bad_input, "bench.seconds", "is {}, expected at least {}: disks may be fast for a moment",
               options.seconds, kDiskSeconds);
  const int64_t largest = *std::max_element(options.sizes.begin(), options.sizes.end()),
                deepest = *std::max_element(options.depths.begin(), options.depths.end());
  if (file_bytes < kLeastReads * largest)
    throw base::Error(ErrorKind::bad_input, "bench.disk",
                      fmt::format("the file has {}, expected at least {}", human_bytes(file_bytes),
                                  human_bytes(kLeastReads * largest)),
                      "a larger file on the same disk says more");
  base::require_memory((deepest + 1) * largest, "reads of the disk", "fewer or smaller ones need less");
  DiskBench result;
  base::Rng rng(options.seed);
  const int64_t before = options.read_from_disks ? options.read_from_disks() : -1;
  const auto measurements = static_cast<double>(options.sizes.size() * options.depths.size());
  for (const int64_t size : options.sizes)
    for (const int64_t depth : options.depths) result.rates.push_back({.size = size, .depth = depth});
  // What is left of the time is less than one measurement's: enough.
  while (result.rounds < options.rounds && result.seconds < 0.95 * options.seconds) {
    const double each = (options.seconds - result.seconds) / measurements;
    for (DiskRate& rate : result.rates) {
      if (options.on_progress)
        options.on_progress(fmt::format("reads of {} kB, {} at once", rate.size / 1024, rate.depth));
      const DiskRate now = Measurement(reader, file_bytes, rate.size, rate.depth, each, rng).run();
      const double reads = static_cast<double>(rate.bytes), more = static_cast<double>(now.bytes);
      rate.latency = (rate.latency * reads + now.latency * more) / (reads + more);
      rate.bytes += now.bytes, rate.seconds += now.seconds;
      result.bytes += now.bytes, result.seconds += now.seconds;
    }
    ++result.rounds;
  }
  if (const int64_t after = options.read_from_disks ? options.read_from_disks() : -1; before >= 0 && after >= 0) {
    if (static_cast<double>(after - before) < kFromMemory * static_cast<double>(result.bytes))
      throw base::Error(ErrorKind::io, "bench.disk",
                        fmt::format("{} were read, and {} of them came from a disk: memory answered the rest, so that "
                                    "no rate of a disk can be told",
                                    human_bytes(result.bytes), human_bytes(after - before)),
                        "is the file in memory (tmpfs), or on a file system that keeps it there?");
    result.checked = true;
  } else if (!reader.direct()) {
    throw base::Error(ErrorKind::io, "bench.disk",
                      "the file can only be read by way of the system's memory, and the system does not say what came "
                      "from a disk (/proc/self/io)",
                      "a file on a local disk can be measured");
  }
  return result;
}

}  // namespace coterie::runtime
