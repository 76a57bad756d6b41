#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/probe_walk.h"
#include "kernels/table.h"
#include "threads/pool.h"

namespace coterie::runtime {

/// How this machine reads repacked weights, and who chose it. No result depends on it.
struct Walk {
  enum class Chosen {
    forced,      // by COTERIE_READ_AHEAD
    measured,    // now
    remembered,  // measured earlier, read from machine_file()
    unmeasured,  // one stream without prefetching: see kernels::measure_walks()
  };
  kernels::ReadAhead read_ahead;
  Chosen chosen = Chosen::unmeasured;
  std::vector<kernels::WalkTrial> trials;  // when it was measured, now or earlier
};

using MeasureWalks =
    std::function<std::vector<kernels::WalkTrial>(const kernels::KernelTable& kernels, threads::Pool& pool)>;

/// COTERIE_READ_AHEAD=STREAMS:BYTES where it is set (STREAMS 1, 2 or 4; BYTES 0 to 65536, 0 prefetches nothing);
/// else what machine_file() remembers for this CPU, instruction set and number of threads; else measured, and
/// remembered when the figures are those of a computer that is not emulated. Throws bad_input for another value of the
/// variable.
Walk walk_of_this_machine(
    threads::Pool& pool, const kernels::KernelTable& kernels, bool measure_again = false,
    const MeasureWalks& measure = [](const kernels::KernelTable& table, threads::Pool& workers) {
      return kernels::measure_walks(table, workers);
    });

/// The value that COTERIE_READ_AHEAD may have.
kernels::ReadAhead parse_read_ahead(std::string_view text);
/// That of the variable; nothing where it is not set or empty. Throws bad_input for another value.
std::optional<kernels::ReadAhead> forced_walk();

}  // namespace coterie::runtime
