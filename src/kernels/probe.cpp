#include "kernels/probe.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/clock.h"
#include "base/memory.h"
#include "tensor/buffer.h"
#include "threads/topology.h"

namespace coterie::kernels {

namespace {

constexpr double kPieceSeconds = 0.001;
constexpr int kPieces = 60;
constexpr int64_t kPieceBytes = 1 << 20;

/// The rate of a worker is the upper quartile over pieces of about a millisecond: what other programs take from some of
/// them does not count, and neither does a lucky one.
double upper_quartile(std::vector<double>& rates) {
  if (rates.empty()) return 0;
  const auto place = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() * 3 / 4);
  std::nth_element(rates.begin(), place, rates.end());
  return *place;
}

/// The rate of all workers together, each of which timed itself: no more of them run at once than there are processors.
double together(const std::vector<double>& workers) {
  const double rates = std::accumulate(workers.begin(), workers.end(), 0.0);
  const threads::Topology topology = threads::Topology::read();
  double processors = static_cast<double>(std::max<size_t>(topology.cpus.size(), 1));
  if (topology.quota > 0) processors = std::min(processors, topology.quota);
  return rates * std::min(1.0, processors / static_cast<double>(workers.size()));
}

/// Multiply-adds a second of all threads together: `work(rounds)` runs so many rounds, returns the multiply-adds of
/// one.
template <typename Work>
double total_rate(threads::Pool& pool, Work work) {
  int64_t rounds = 1000;
  for (;;) {
    const base::Stopwatch watch;
    work(rounds);
    const double seconds = watch.seconds();
    if (seconds > kPieceSeconds / 2) {
      rounds = static_cast<int64_t>(static_cast<double>(rounds) * kPieceSeconds / seconds) + 1;
      break;
    }
    rounds *= 2;
  }
  std::vector<double> workers(static_cast<size_t>(pool.threads()));
  pool.run([&](int worker) {
    std::vector<double> rates;
    for (int piece = 0; piece < kPieces; ++piece) {
      const base::Stopwatch watch;
      const int64_t each = work(rounds);
      rates.push_back(static_cast<double>(each * rounds) / watch.seconds());
    }
    workers[static_cast<size_t>(worker)] = upper_quartile(rates);
  });
  return together(workers);
}

/// 10^9 operations a second, two for each multiply-add; 0 where the kernels have no such products.
template <typename Sum>
double peak(threads::Pool& pool, int64_t (*work)(int64_t rounds, Sum* sink) noexcept) {
  if (!work) return 0;
  return 2e-9 * total_rate(pool, [work](int64_t rounds) {
           Sum sink;
           return work(rounds, &sink);
         });
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
  // What a plain sum reads fastest by differs between processors: the limit is the best of three walks, in turn.
  constexpr std::array<ReadAhead, 3> kWalks = {{{1, 0}, {2, 2304}, {4, 2304}}};
  std::array<std::vector<double>, kWalks.size()> workers;
  workers.fill(std::vector<double>(static_cast<size_t>(pool.threads())));
  pool.split(bytes, grain, [&](int64_t begin, int64_t end, int worker) {
    std::array<std::vector<double>, kWalks.size()> rates;
    for (int run = 0; run < 2; ++run) {
      for (int64_t at = begin; at < end; at += kPieceBytes) {
        const int64_t count = std::min(kPieceBytes, end - at);
        const size_t walk = static_cast<size_t>((at - begin) / kPieceBytes + run) % kWalks.size();
        const base::Stopwatch watch;
        digest.fetch_xor(table.matmul.read(buffer.data() + at, count, kWalks[walk]), std::memory_order_relaxed);
        rates[walk].push_back(static_cast<double>(count) / watch.seconds());
      }
    }
    for (size_t walk = 0; walk < kWalks.size(); ++walk)
      workers[walk][static_cast<size_t>(worker)] = upper_quartile(rates[walk]);
  });
  double fastest = 0;
  for (const std::vector<double>& rates : workers) fastest = std::max(fastest, together(rates));
  return fastest / 1e9;
}

double measure_f32_peak(const KernelTable& table, threads::Pool& pool) { return peak(pool, table.matmul.peak_f32); }
double measure_int8_peak(const KernelTable& table, threads::Pool& pool) { return peak(pool, table.matmul.peak_int8); }
double measure_tile_peak(const KernelTable& table, threads::Pool& pool) { return peak(pool, table.matmul.peak_tiles); }
double measure_bf16_peak(const KernelTable& table, threads::Pool& pool) { return peak(pool, table.matmul.peak_bf16); }

MachineLimits measure_limits(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes) {
  return {measure_read_bandwidth(table, pool, buffer_bytes), measure_f32_peak(table, pool),
          measure_int8_peak(table, pool), measure_tile_peak(table, pool), measure_bf16_peak(table, pool)};
}

}  // namespace coterie::kernels
