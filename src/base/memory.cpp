#include "base/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"

namespace coterie::base {

namespace {

int64_t meminfo(std::string_view key) {
  std::ifstream file("/proc/meminfo");
  if (!file && (errno == EMFILE || errno == ENFILE))  // not to be taken for a machine without memory
    throw Error(ErrorKind::io, "/proc/meminfo", "cannot be opened: too many files are open", "`ulimit -n` allows more");
  std::string name;
  int64_t kilobytes = 0;
  std::string unit;
  while (file >> name >> kilobytes && std::getline(file, unit))
    if (name == key) return kilobytes * 1024;
  return 0;
}

/// One cgroup that bounds this process: its own, or one that holds it.
struct Group {
  std::string limit, used, statistics;  // files
};

// "4:memory:/a/b" (version 1) or "0::/a/b" (version 2) of /proc/self/cgroup. In a container the path may be the host's,
// which is not there: then the root of what is mounted is the group.
std::vector<Group> find_groups() {
  std::vector<Group> groups;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",memory,") == controllers.npos) continue;
    const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (std::string path = line.substr(second + 1);; path.erase(path.find_last_of('/'))) {
      if (path == "/") path.clear();
      const std::string folder = root + path + "/";
      groups.push_back({folder + (v2 ? "memory.max" : "memory.limit_in_bytes"),
                        folder + (v2 ? "memory.current" : "memory.usage_in_bytes"), folder + "memory.stat"});
      if (path.find('/') == path.npos) break;
    }
  }
  return groups;
}
const std::vector<Group>& groups() {
  static const std::vector<Group> found = find_groups();
  return found;
}

// A file that is absent or says "max" sets no limit.
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
int64_t read_number(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value && value > 0 ? value : otherwise;
}
int64_t cgroup_limit() {
  int64_t least = kNoLimit;
  for (const Group& group : groups()) least = std::min(least, read_number(group.limit, kNoLimit));
  return least;
}
/// Bytes of the page cache that the group could give back; version 1 counts those of the groups in it apart.
int64_t file_cache(const std::string& statistics) {
  std::ifstream file(statistics);
  std::string name;
  int64_t value = 0, own = 0, shared = 0, total = -1, total_shared = 0;
  while (file >> name >> value) {
    if (name == "file" || name == "cache") own = value;
    if (name == "shmem") shared = value;
    if (name == "total_cache") total = value;
    if (name == "total_shmem") total_shared = value;
  }
  return total >= 0 ? total - total_shared : own - shared;
}
/// Bytes that the tightest of the groups has left.
int64_t cgroup_left() {
  int64_t least = kNoLimit;
  for (const Group& group : groups()) {
    const int64_t limit = read_number(group.limit, kNoLimit);
    if (limit >= kNoLimit / 4) continue;  // version 1 writes its largest number of pages for none
    least = std::min(least, limit - read_number(group.used, 0) + file_cache(group.statistics));
  }
  return least;
}

}  // namespace

int64_t total_memory() { return std::min(meminfo("MemTotal:"), cgroup_limit()); }

int64_t available_memory() { return std::clamp<int64_t>(cgroup_left(), 0, meminfo("MemAvailable:")); }

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
