#pragma once

#include <string>

namespace coterie::cli {

/// `coterie bench --disk FILE`: what the disk gives by size and number of reads. Returns the exit code.
int bench_disk_command(const std::string& file, double seconds, bool json);

}  // namespace coterie::cli
