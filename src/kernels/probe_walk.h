#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/table.h"
#include "threads/pool.h"

namespace coterie::kernels {

/// A way to walk repacked rows, and how fast it read them.
struct WalkTrial {
  ReadAhead walk;
  double gb_s = 0;  // 10^9 bytes of weights a second, all threads: the median of its rounds
};

/// Decodes one token by repacked q4_k rows that no cache holds, by each walk in turn, some 0.3 s beside filling the
/// buffer. The walks are compared within each round, so a machine whose speed drifts still ranks them. Empty where the
/// kernels have no repacked rows, under an emulator, whose speeds say nothing, and where memory is too short for the
/// buffer. `buffer_bytes`: 0 = one and a half times the last cache, from 256 MB to 768 MB.
std::vector<WalkTrial> measure_walks(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes = 0);

/// The fastest; the simplest, one stream without prefetching, of none.
ReadAhead fastest_walk(const std::vector<WalkTrial>& trials);

}  // namespace coterie::kernels
