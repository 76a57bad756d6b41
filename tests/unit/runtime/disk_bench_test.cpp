#include "runtime/disk_bench.h"

#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <thread>

#include "base/error.h"

namespace coterie::runtime {
namespace {

/// Answers at once, in the order in which it was asked, and remembers offsets.
class FakeReader final : public BlockReader {
 public:
  std::string_view name() const override { return "fake"; }
  bool direct() const override { return is_direct; }
  int64_t unit() const override { return 4096; }
  void submit(std::span<const ReadPiece> pieces) override {
    for (const ReadPiece& piece : pieces) {
      EXPECT_EQ(piece.offset % 4096, 0);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.to) % 4096, 0u);
      EXPECT_LE(piece.offset + piece.bytes, file_bytes);
      if (piece.bytes != size) size = piece.bytes, offsets.clear(), most = 0;
      if (waiting.empty()) offsets.clear();  // a new measurement
      EXPECT_TRUE(offsets.insert(piece.offset).second) << "an offset twice";
      waiting.push_back({.tag = piece.tag, .bytes = short_by > 0 ? piece.bytes - short_by : piece.bytes});
      most = std::max(most, std::ssize(waiting)), deepest = std::max(deepest, most);
    }
  }
  void submit_ahead(std::span<const ReadPiece> pieces) override { submit(pieces); }
  std::vector<uint64_t> withdraw() override { return {}; }
  double busy_seconds() const override { return 0; }
  std::optional<ReadDone> poll() override { return wait(); }
  ReadDone wait() override {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    const ReadDone done = waiting.front();
    waiting.pop_front();
    read += done.bytes;
    return done;
  }
  bool changed(int32_t) const override { return false; }

  int64_t file_bytes = 64 << 20, size = 0, short_by = 0, read = 0;
  std::ptrdiff_t most = 0, deepest = 0;
  bool is_direct = true;
  std::set<int64_t> offsets;
  std::deque<ReadDone> waiting;
};

// Files that are read through in milliseconds end each measurement early, so that the test does, too.
DiskBenchOptions quick() { return {.sizes = {1 << 20, 2 << 20}, .depths = {1, 4}, .seconds = 10, .rounds = 1}; }

TEST(DiskBench, ReadsNoOffsetTwiceAndAsManyAtOnceAsAsked) {
  FakeReader reader;
  DiskBenchOptions options = quick();
  options.read_from_disks = [&] { return reader.read; };
  const DiskBench bench = bench_disk(reader, reader.file_bytes, options);
  ASSERT_EQ(bench.rates.size(), 4u);
  EXPECT_EQ(reader.deepest, 4);
  EXPECT_EQ(bench.bytes, 4 * reader.file_bytes);  // each measurement read the whole file once
  EXPECT_TRUE(bench.checked);
  for (const DiskRate& rate : bench.rates) {
    EXPECT_GT(rate.bytes_per_second(), 0);
    EXPECT_GT(rate.latency, 0);
    EXPECT_LE(rate.bytes_per_second(), bench.fastest().bytes_per_second());
  }
  EXPECT_GT(bench.rates[1].latency, bench.rates[0].latency);
}

TEST(DiskBench, ASmallFileIsReadAgainUntilTheTimeIsUp) {
  FakeReader reader;
  DiskBenchOptions options = quick();
  options.rounds = 3;
  const DiskBench bench = bench_disk(reader, reader.file_bytes, options);
  EXPECT_EQ(bench.rounds, 3);
  EXPECT_EQ(bench.bytes, 3 * 4 * reader.file_bytes);
  for (const DiskRate& rate : bench.rates) EXPECT_EQ(rate.bytes, 3 * reader.file_bytes);
}

TEST(DiskBench, WhatMemoryAnsweredIsNotReported) {
  FakeReader reader;
  DiskBenchOptions options = quick();
  options.read_from_disks = [&] { return reader.read / 2; };
  try {
    bench_disk(reader, reader.file_bytes, options);
    ADD_FAILURE();
  } catch (const base::Error& error) {
    EXPECT_NE(error.message().find("memory answered"), std::string::npos);
  }
  options.read_from_disks = [] { return int64_t{-1}; };  // nobody can say
  EXPECT_FALSE(bench_disk(reader, reader.file_bytes, options).checked);
  reader.is_direct = false;
  EXPECT_THROW(bench_disk(reader, reader.file_bytes, options), base::Error);
}

TEST(DiskBench, ShortReadsShortFilesAndShortTimesAreRefused) {
  FakeReader reader;
  EXPECT_THROW(bench_disk(reader, 8 << 20, quick()), base::Error);
  DiskBenchOptions options = quick();
  options.seconds = 2;
  EXPECT_THROW(bench_disk(reader, reader.file_bytes, options), base::Error);
  reader.short_by = 512;
  EXPECT_THROW(bench_disk(reader, reader.file_bytes, quick()), base::Error);
  EXPECT_TRUE(reader.waiting.empty());  // nothing writes into memory that is gone
}

TEST(DiskBench, TheSystemSaysWhatCameFromDisks) { EXPECT_GE(bytes_read_from_disks(), -1); }

}  // namespace
}  // namespace coterie::runtime
