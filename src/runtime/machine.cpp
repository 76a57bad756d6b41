#include "runtime/machine.h"

#include <string>

#include "base/cpu.h"
#include "base/error.h"
#include "base/json.h"
#include "kernels/probe.h"
#include "runtime/machine_file.h"

namespace coterie::runtime {

namespace {

std::string key(const threads::Pool& pool, const kernels::KernelTable& kernels) {
  // "fastest read", "bf16 by tiles": what was found in another way is another figure.
  return fmt::format("{} · {} · {} threads · fastest read · bf16 by tiles", base::cpu().model, kernels.isa,
                     pool.threads());
}

// A file may be older than a figure that these kernels have.
std::optional<MachineLimits> remembered(const base::Json& entry, const std::string& name,
                                        const kernels::KernelTable& kernels) {
  const bool bf16 = kernels.gemm_bf16.run != nullptr, tiles = kernels.matmul.peak_tiles != nullptr;
  if (!entry.is_object()) return {};
  try {
    base::JsonReader reader(entry, name);
    MachineLimits limits{
        reader.number("read_bytes_per_second"), reader.number("f32_flops"),           reader.number("int8_ops"), true,
        bf16 ? reader.number("bf16_flops") : 0, tiles ? reader.number("tile_ops") : 0};
    if (limits.read_bytes_per_second > 0 && limits.f32_flops > 0 && limits.int8_ops > 0 &&
        (!bf16 || limits.bf16_flops > 0) && (!tiles || limits.tile_ops > 0))
      return limits;
  } catch (const base::Error&) {
  }
  return {};
}

}  // namespace

MachineLimits measure_machine(threads::Pool& pool, const kernels::KernelTable& kernels) {
  const kernels::MachineLimits measured = kernels::measure_limits(kernels, pool);
  return {measured.read_gb_s * 1e9,    measured.f32_gflop_s * 1e9, measured.int8_gop_s * 1e9, false,
          measured.bf16_gflop_s * 1e9, measured.tile_gop_s * 1e9};
}

std::optional<MachineLimits> known_limits(const threads::Pool& pool, const kernels::KernelTable& kernels) {
  const std::string name = key(pool, kernels);
  return remembered(recall(name), name, kernels);
}

MachineLimits machine_limits(threads::Pool& pool, const kernels::KernelTable& kernels, bool measure_again,
                             const Measure& measure) {
  const std::string name = key(pool, kernels);
  if (!measure_again)
    if (const auto known = known_limits(pool, kernels)) return *known;

  const MachineLimits limits = measure(pool, kernels);
  if (base::cpu().emulated) return limits;
  base::Json entry = {{"read_bytes_per_second", limits.read_bytes_per_second},
                      {"f32_flops", limits.f32_flops},
                      {"int8_ops", limits.int8_ops}};
  if (limits.bf16_flops > 0) entry["bf16_flops"] = limits.bf16_flops;
  if (limits.tile_ops > 0) entry["tile_ops"] = limits.tile_ops;
  remember(name, entry);
  return limits;
}

}  // namespace coterie::runtime
