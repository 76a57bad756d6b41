#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "kernels/table.h"
#include "threads/pool.h"

namespace coterie::runtime {

/// What the machine can do at most, measured with the kernels and threads that run the model.
struct MachineLimits {
  double read_bytes_per_second = 0;  // streaming reads of memory, larger than the caches
  double f32_flops = 0;              // multiply-adds of f32 from registers, two operations each, a second
  double int8_ops = 0;               // the same of int8 into int32
  bool remembered = false;           // read from the file, not measured now
  double bf16_flops = 0;             // as f32_flops, with products of bf16; 0 where the kernels have none
  double tile_ops = 0;               // as int8_ops, by the tiles of AMX; 0 where the kernels use none
};

using Measure = std::function<MachineLimits(threads::Pool& pool, const kernels::KernelTable& kernels)>;
/// By kernels/probe.h: about a second.
MachineLimits measure_machine(threads::Pool& pool, const kernels::KernelTable& kernels);

/// Measured on first use and remembered in machine_file() (runtime/machine_file.h) under the CPU's model, the
/// instruction set and the number of threads; figures of an emulated CPU are not remembered. `measure_again` ignores
/// what is remembered.
MachineLimits machine_limits(threads::Pool& pool, const kernels::KernelTable& kernels, bool measure_again = false,
                             const Measure& measure = measure_machine);

/// What is remembered of this machine, if anything is: nothing is measured.
std::optional<MachineLimits> known_limits(const threads::Pool& pool, const kernels::KernelTable& kernels);

}  // namespace coterie::runtime
