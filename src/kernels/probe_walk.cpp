#include "kernels/probe_walk.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/median.h"
#include "base/memory.h"
#include "tensor/buffer.h"

namespace coterie::kernels {

namespace {

// What processors were seen to like: Zen 4 one stream without prefetching, Zen 3 two, Emerald Rapids four. Eight were
// never better than four, and 1152 or 4608 bytes ahead never better than 2304 for more than one stream.
constexpr std::array<ReadAhead, 6> kWalks = {{{1, 0}, {1, 2304}, {1, 4608}, {2, 2304}, {4, 0}, {4, 2304}}};

constexpr int64_t kCols = 2048, kTaskRows = 256;  // a piece of a matrix as ops::matmul cuts them
constexpr int kRounds = 12;                       // twice each walk first, forwards and backwards
constexpr int64_t kTrialBytes = 32 << 20;

int64_t default_buffer() {
  const int64_t last_cache = std::max<int64_t>(::sysconf(_SC_LEVEL3_CACHE_SIZE), 0);
  return std::clamp<int64_t>(last_cache * 3 / 2, 256 << 20, 768 << 20);
}

}  // namespace

std::vector<WalkTrial> measure_walks(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes) {
  const MatmulKernel& kernel = table.matmul.fast[static_cast<size_t>(tensor::DType::q4_k)];
  if (kernel.repacked.count == 0 || base::cpu().emulated) return {};

  const int64_t row_bytes = kCols / 256 * kernel.repacked.block_bytes, task_bytes = kTaskRows * row_bytes;
  int64_t bytes = buffer_bytes > 0 ? buffer_bytes : default_buffer();
  bytes = std::max(bytes, 8 * pool.threads() * task_bytes);
  bytes = std::min(bytes, base::available_memory() / 4);
  const int64_t tasks = bytes / task_bytes;
  // In one trial each worker walks as many tasks, one after the other.
  const int64_t tasks_each = std::max<int64_t>(kTrialBytes / task_bytes / pool.threads(), 2);
  if (tasks < 2 * tasks_each * pool.threads()) return {};

  // Each worker walks the share of the buffer that it touches first here, which lies on its node of memory.
  const int64_t share = tasks / pool.threads();
  tensor::Buffer<std::byte> weights(tasks * task_bytes);
  pool.run([&](int worker) {
    std::memset(weights.data() + worker * share * task_bytes, 1, static_cast<size_t>(share * task_bytes));
  });
  std::vector<float> ones(kCols, 1.0f);
  std::vector<ActivationBlock256> x(kCols / 256);
  table.matmul.quantise256(ones.data(), kCols, x.data());
  const std::byte* const row = reinterpret_cast<const std::byte*>(x.data());
  const int64_t scratch_bytes = (kernel.scratch_bytes(tensor::DType::q4_k, kCols) + 63) / 64 * 64;
  tensor::Buffer<std::byte> scratch(scratch_bytes * pool.threads());
  tensor::Buffer<float> y(kTaskRows * pool.threads());

  int64_t first = 0;  // a trial begins where the last one ended, so that no cache holds what it reads
  const auto trial = [&](ReadAhead walk) {
    const base::Stopwatch watch;
    pool.run([&](int worker) {
      MatmulTask task;
      task.dtype = tensor::DType::q4_k, task.row_stride = row_bytes, task.rows = kTaskRows, task.cols = kCols;
      task.repacked = true, task.x = &row, task.tokens = 1, task.read_ahead = walk;
      task.y = y.data() + worker * kTaskRows, task.y_stride = kTaskRows;
      task.scratch = scratch.data() + worker * scratch_bytes;
      const auto at = [&](int64_t i) { return weights.data() + (worker * share + (first + i) % share) * task_bytes; };
      for (int64_t i = 0; i < tasks_each; ++i) {
        task.weights = at(i), task.next = at(i + 1), task.next_bytes = task_bytes;
        kernel.run(task);
      }
    });
    first += tasks_each;
    return static_cast<double>(tasks_each * pool.threads() * task_bytes) / watch.seconds() / 1e9;
  };

  std::array<std::vector<double>, kWalks.size()> rates;
  trial(kWalks.front());  // wakes the workers, and the processor
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < kWalks.size(); ++i) {
      const size_t place = round % 2 == 0 ? i : kWalks.size() - 1 - i;
      const size_t which = (place + static_cast<size_t>(round / 2)) % kWalks.size();
      rates[which].push_back(trial(kWalks[which]));
    }
  std::vector<WalkTrial> trials;
  for (size_t i = 0; i < kWalks.size(); ++i) trials.push_back({kWalks[i], base::median(rates[i])});
  return trials;
}

ReadAhead fastest_walk(const std::vector<WalkTrial>& trials) {
  const auto best = std::ranges::max_element(trials, {}, &WalkTrial::gb_s);
  return best == trials.end() ? ReadAhead{} : best->walk;
}

}  // namespace coterie::kernels
