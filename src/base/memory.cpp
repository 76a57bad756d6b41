#include "base/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"

namespace coterie::base {

namespace {

int64_t meminfo(std::string_view key) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  int64_t kilobytes = 0;
  std::string unit;
  while (file >> name >> kilobytes && std::getline(file, unit))
    if (name == key) return kilobytes * 1024;
  return 0;
}

// Both cgroup versions; a file that is absent or says "max" sets no limit.
int64_t read_limit(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value && value > 0 ? value : std::numeric_limits<int64_t>::max();
}
int64_t cgroup_limit() {
  return std::min(read_limit("/sys/fs/cgroup/memory.max"), read_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
}
int64_t cgroup_used() {
  std::ifstream v2("/sys/fs/cgroup/memory.current"), v1("/sys/fs/cgroup/memory/memory.usage_in_bytes");
  int64_t value = 0;
  if (v2 >> value || v1 >> value) return value;
  return 0;
}
int64_t cgroup_file_cache() {
  std::ifstream file("/sys/fs/cgroup/memory.stat");
  std::string name;
  int64_t value = 0;
  while (file >> name >> value)
    if (name == "file") return value;
  return 0;
}

}  // namespace

int64_t total_memory() { return std::min(meminfo("MemTotal:"), cgroup_limit()); }

int64_t available_memory() {
  const int64_t limit = cgroup_limit();
  const int64_t machine = meminfo("MemAvailable:");
  if (limit == std::numeric_limits<int64_t>::max()) return machine;
  return std::clamp<int64_t>(limit - cgroup_used() + cgroup_file_cache(), 0, machine);
}

int64_t resident_memory() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

void require_memory(int64_t bytes, std::string_view what, std::string_view hint) {
  const int64_t available = available_memory();
  if (bytes <= available) return;
  throw Error(ErrorKind::out_of_memory, std::string(what),
              fmt::format("needs {}, but only {} of memory are available", human_bytes(bytes), human_bytes(available)),
              std::string(hint));
}

namespace {

/// Whole pages: those that `bytes` touches, or those that lie in it.
std::span<std::byte> pages_of(std::span<const std::byte> bytes, bool touched) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uint64_t>(bytes.data()), end = begin + bytes.size();
  const uint64_t first = (touched ? begin : begin + page - 1) / page * page;
  const uint64_t last = (touched ? end + page - 1 : end) / page * page;
  return {reinterpret_cast<std::byte*>(first), last > first ? last - first : 0};
}

}  // namespace

bool in_memory(std::span<const std::byte> mapped) {
  const std::span<std::byte> pages = pages_of(mapped, true);
  if (pages.empty()) return true;
  std::vector<unsigned char> there(pages.size() / static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
  if (::mincore(pages.data(), pages.size(), there.data()) != 0) return false;
  return std::all_of(there.begin(), there.end(), [](unsigned char page) { return page & 1; });
}

void give_back(std::span<const std::byte> mapped) {
  const std::span<std::byte> pages = pages_of(mapped, false);
  if (!pages.empty()) ::madvise(pages.data(), pages.size(), MADV_DONTNEED);
}

std::string human_bytes(int64_t bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 999.5 && unit < 5) value /= 1000, ++unit;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.{}f} {}", value, value < 99.95 ? 1 : 0, units[unit]);
}

}  // namespace coterie::base
