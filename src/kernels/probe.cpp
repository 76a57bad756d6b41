#include "kernels/probe.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/clock.h"
#include "base/memory.h"
#include "tensor/buffer.h"

namespace coterie::kernels {

namespace {

constexpr int kRuns = 5;
constexpr double kRunSeconds = 0.02;

/// Multiply-adds a second of all threads: `work(rounds)` runs so many rounds and returns the multiply-adds of one.
template <typename Work>
double best_rate(threads::Pool& pool, Work work) {
  int64_t rounds = 1000;
  for (base::Stopwatch watch;; watch.restart(), rounds *= 4) {
    work(rounds);
    if (watch.seconds() > kRunSeconds / 8) {
      rounds = static_cast<int64_t>(static_cast<double>(rounds) * kRunSeconds / watch.seconds()) + 1;
      break;
    }
  }
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::atomic<int64_t> done = 0;
    const base::Stopwatch watch;
    pool.run([&](int) { done.fetch_add(rounds * work(rounds)); });
    best = std::max(best, static_cast<double>(done.load()) / watch.seconds());
  }
  return best;
}

int64_t default_buffer() {
  const int64_t last_cache = std::max<int64_t>(::sysconf(_SC_LEVEL3_CACHE_SIZE), 0);
  return std::max<int64_t>(4 * last_cache, int64_t{256} << 20);
}

}  // namespace

double measure_read_bandwidth(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes) {
  const int64_t grain = 4096;
  const int64_t bytes = std::max((buffer_bytes > 0 ? buffer_bytes : default_buffer()) / grain, int64_t{1}) * grain;
  base::require_memory(bytes, "the buffer whose reading is timed", "close other programs, or skip the measurement");
  tensor::Buffer<std::byte> buffer(bytes);
  pool.split(bytes, grain, [&](int64_t begin, int64_t end, int) {  // each worker's pages on its own node
    std::memset(buffer.data() + begin, 1, static_cast<size_t>(end - begin));
  });
  std::atomic<uint64_t> digest = 0;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const base::Stopwatch watch;
    pool.split(bytes, grain, [&](int64_t begin, int64_t end, int) {
      digest.fetch_xor(table.matmul.read(buffer.data() + begin, end - begin));
    });
    best = std::max(best, static_cast<double>(bytes) / watch.seconds());
  }
  return best / 1e9;
}

double measure_f32_peak(const KernelTable& table, threads::Pool& pool) {
  return 2e-9 * best_rate(pool, [&](int64_t rounds) {
           float sink;
           return table.matmul.peak_f32(rounds, &sink);
         });
}

double measure_int8_peak(const KernelTable& table, threads::Pool& pool) {
  return 2e-9 * best_rate(pool, [&](int64_t rounds) {
           int32_t sink;
           return table.matmul.peak_int8(rounds, &sink);
         });
}

MachineLimits measure_limits(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes) {
  return {measure_read_bandwidth(table, pool, buffer_bytes), measure_f32_peak(table, pool),
          measure_int8_peak(table, pool)};
}

}  // namespace coterie::kernels
