#include "runtime/machine.h"

#include <cstdlib>
#include <string>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"
#include "kernels/probe.h"
#include "threads/topology.h"

namespace coterie::runtime {

namespace {

namespace fs = std::filesystem;

std::string key(const threads::Pool& pool, const kernels::KernelTable& kernels) {
  // The streams too: a bandwidth found by another walk is another figure.
  return fmt::format("{} · {} · {} threads · {} streams", threads::Topology::read().model, kernels.isa, pool.threads(),
                     kernels.matmul.read_ahead.streams);
}

base::Json read_file(const std::optional<fs::path>& path) {
  std::error_code ignored;
  if (!path || !fs::exists(*path, ignored)) return base::Json::object();
  try {
    base::Json file = base::read_json(*path);
    return file.is_object() ? file : base::Json::object();
  } catch (const base::Error&) {
    return base::Json::object();  // spoilt: measured and written anew
  }
}

// A file may be older than a figure that these kernels have.
std::optional<MachineLimits> remembered(const base::Json& file, const std::string& name,
                                        const kernels::KernelTable& kernels) {
  const bool bf16 = kernels.gemm_bf16.run != nullptr, tiles = kernels.matmul.peak_tiles != nullptr;
  const auto entry = file.find(name);
  if (entry == file.end() || !entry->is_object()) return {};
  try {
    base::JsonReader reader(*entry, name);
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

std::optional<fs::path> machine_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache && *cache) return fs::path(cache) / "coterie" / "machine.json";
  if (home && *home) return fs::path(home) / ".cache" / "coterie" / "machine.json";
  return {};
}

MachineLimits measure_machine(threads::Pool& pool, const kernels::KernelTable& kernels) {
  const kernels::MachineLimits measured = kernels::measure_limits(kernels, pool);
  return {measured.read_gb_s * 1e9,    measured.f32_gflop_s * 1e9, measured.int8_gop_s * 1e9, false,
          measured.bf16_gflop_s * 1e9, measured.tile_gop_s * 1e9};
}

MachineLimits machine_limits(threads::Pool& pool, const kernels::KernelTable& kernels, bool measure_again,
                             const Measure& measure) {
  const std::optional<fs::path> path = machine_file();
  const std::string name = key(pool, kernels);
  base::Json file = read_file(path);
  if (!measure_again)
    if (const auto known = remembered(file, name, kernels)) return *known;

  const MachineLimits limits = measure(pool, kernels);
  if (path) {
    file[name] = {{"read_bytes_per_second", limits.read_bytes_per_second},
                  {"f32_flops", limits.f32_flops},
                  {"int8_ops", limits.int8_ops}};
    if (limits.bf16_flops > 0) file[name]["bf16_flops"] = limits.bf16_flops;
    if (limits.tile_ops > 0) file[name]["tile_ops"] = limits.tile_ops;
    try {
      fs::create_directories(path->parent_path());
      base::AtomicFile out(*path);
      out.write(file.dump(2) + "\n");
      out.commit();
    } catch (const std::exception&) {
      // A read-only home: measured again next time.
    }
  }
  return limits;
}

}  // namespace coterie::runtime
