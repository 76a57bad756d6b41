#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace coterie::base {

// What is written gets a temporary name beside its own, with the number of the process, and holds a lock on it for as
// long as it is written (flock). A process that is killed leaves it behind.

/// The name beside `target` of a file (".part") or a folder (".partial") that this process writes.
std::filesystem::path temporary_file(const std::filesystem::path& target, int serial);
std::filesystem::path temporary_folder(const std::filesystem::path& target);

/// Removes what lies beside `target` under such names and belongs to nobody: its process has ended, and nobody on any
/// machine holds its lock. Returns what was removed; what cannot be removed stays.
std::vector<std::filesystem::path> remove_leftovers(const std::filesystem::path& target);

}  // namespace coterie::base
