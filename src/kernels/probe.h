#pragma once

#include <cstdint>

#include "kernels/table.h"
#include "threads/pool.h"

namespace coterie::kernels {

/// What the machine can do at best with these kernels and this pool: what speeds are compared with.
struct MachineLimits {
  double read_gb_s = 0;     // 10^9 bytes a second read from memory, all threads
  double f32_gflop_s = 0;   // 10^9 f32 operations a second (a multiply-add counts two), all threads
  double int8_gop_s = 0;    // the same with int8 products summed in int32
  double tile_gop_s = 0;    // that of tiles (AMX); 0 where these kernels use none
  double bf16_gflop_s = 0;  // the same with products of bf16 summed in f32; 0 where these kernels have none
};

/// Each times pieces of a millisecond or less on all threads at once, some 0.1 s in all, and adds up the threads' upper
/// quartiles, so that a busy machine is not taken for a slow one. The bandwidth needs a buffer that no cache holds:
/// `buffer_bytes`, 0 = four times the last cache, at least 256 MB; it throws out_of_memory where that does not fit.
MachineLimits measure_limits(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes = 0);
double measure_read_bandwidth(const KernelTable& table, threads::Pool& pool, int64_t buffer_bytes = 0);
double measure_f32_peak(const KernelTable& table, threads::Pool& pool);
double measure_int8_peak(const KernelTable& table, threads::Pool& pool);
double measure_tile_peak(const KernelTable& table, threads::Pool& pool);
double measure_bf16_peak(const KernelTable& table, threads::Pool& pool);

}  // namespace coterie::kernels
