#include "runtime/large_pages.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/memory.h"

namespace coterie::runtime {

namespace {

constexpr int64_t kLargePage = 2 << 20;
constexpr int64_t kMovedBytes = 32 << 20;  // moved together: some milliseconds
constexpr int64_t kSmallPage = 4096;
// Below this, page tables and what they map stay in the caches.
constexpr int64_t kWorthwhile = 64 << 20;

// linux/fs.h, since Linux 6.7; older headers lack it.
struct PageRegion {
  uint64_t start, end, categories;
};
struct ScanArgument {
  uint64_t size, flags, start, end, walk_end, vector, vector_length, most_pages;
  uint64_t category_inverted, category_mask, category_any_of, return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArgument);
constexpr uint64_t kPageIsHuge = 1 << 6;

/// Bytes of [data, data + bytes) that are mapped by large pages; -1 where the system cannot tell.
int64_t large_bytes(const std::byte* data, int64_t bytes) {
  const int file = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  PageRegion regions[64];
  ScanArgument scan{};
  scan.size = sizeof scan;
  scan.start = reinterpret_cast<uint64_t>(data), scan.end = scan.start + static_cast<uint64_t>(bytes);
  scan.vector = reinterpret_cast<uint64_t>(regions), scan.vector_length = std::size(regions);
  scan.category_mask = scan.return_mask = kPageIsHuge;
  const int found = ::ioctl(file, kPagemapScan, &scan);
  ::close(file);
  if (found < 0) return -1;
  int64_t large = 0;
  for (int i = 0; i < found; ++i) large += static_cast<int64_t>(regions[i].end - regions[i].start);
  return large;
}

}  // namespace

LargePages::LargePages(const checkpoint::TensorSource& source,
                       base::FunctionRef<bool(std::span<const std::byte>)> left_out) {
  if (source.format() == checkpoint::Format::memory || ::sysconf(_SC_PAGESIZE) != kSmallPage) return;
  struct Range {
    std::byte *begin, *end;
  };
  std::vector<Range> tensors;
  for (const checkpoint::TensorInfo& tensor : source.tensors()) {
    auto* begin = const_cast<std::byte*>(tensor.bytes.data());
    if (begin && !tensor.bytes.empty() && !left_out(tensor.bytes))
      tensors.push_back({begin, begin + tensor.bytes.size()});
  }
  std::sort(tensors.begin(), tensors.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  // Whole large pages that hold nothing but tensors and what pads them: never memory between two files.
  int64_t total = 0;
  for (size_t i = 0; i < tensors.size();) {
    Range run = tensors[i++];
    while (i < tensors.size() && tensors[i].begin - run.end < kSmallPage) run.end = std::max(run.end, tensors[i++].end);
    const auto up = [](uint64_t at) { return (at + kLargePage - 1) / kLargePage * kLargePage; };
    auto at = up(reinterpret_cast<uint64_t>(run.begin));
    const uint64_t end = reinterpret_cast<uint64_t>(run.end) / kLargePage * kLargePage;
    for (; at < end; at += kMovedBytes) {
      const int64_t bytes = std::min<int64_t>(kMovedBytes, static_cast<int64_t>(end - at));
      pieces_.push_back({reinterpret_cast<std::byte*>(at), bytes});
      total += bytes;
    }
  }
  if (total < kWorthwhile) pieces_.clear();
}

void LargePages::advance(threads::Pool& pool, double seconds, int64_t spare, bool read) {
  const base::Stopwatch clock;
  while (!done() && clock.seconds() < seconds) {
    const Piece& piece = pieces_[next_];
    if (base::available_memory() < piece.bytes + spare) {
      next_ = pieces_.size();
      return;
    }
    ++next_;
    if (!read && !base::in_memory({piece.data, static_cast<size_t>(piece.bytes)})) continue;
    // A page that is in memory may not be mapped yet; how it is mapped shows once it is touched.
    for (int64_t at = 0; at < piece.bytes; at += kLargePage)
      static_cast<void>(*static_cast<volatile const std::byte*>(piece.data + at));
    if (2 * large_bytes(piece.data, piece.bytes) > piece.bytes) continue;
    if (!move(pool, piece)) next_ = pieces_.size();
  }
}

bool LargePages::move(threads::Pool& pool, const Piece& piece) {
  const size_t room = static_cast<size_t>(piece.bytes + kLargePage);
  void* mapped = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return false;
  auto* base = static_cast<std::byte*>(mapped);
  const auto address = reinterpret_cast<uint64_t>(base);
  std::byte* copy = base + ((address + kLargePage - 1) / kLargePage * kLargePage - address);
  const bool advised = ::madvise(copy, static_cast<size_t>(piece.bytes), MADV_HUGEPAGE) == 0;
  if (advised) {
    pool.each(piece.bytes / kLargePage, [&](int64_t page, int) {
      std::memcpy(copy + page * kLargePage, piece.data + page * kLargePage, kLargePage);
    });
  }
  // The system may have had no large pages to give.
  const int64_t found = advised ? large_bytes(copy, piece.bytes) : 0;
  const bool large = found < 0 || 2 * found > piece.bytes;
  const bool placed = large && ::mprotect(copy, static_cast<size_t>(piece.bytes), PROT_READ) == 0 &&
                      ::mremap(copy, static_cast<size_t>(piece.bytes), static_cast<size_t>(piece.bytes),
                               MREMAP_MAYMOVE | MREMAP_FIXED, piece.data) != MAP_FAILED;
  if (placed) {
    moved_ += piece.bytes, there_.push_back(piece);
    if (copy > base) ::munmap(base, static_cast<size_t>(copy - base));
    std::byte* const end = copy + piece.bytes;
    if (end < base + room) ::munmap(end, static_cast<size_t>(base + room - end));
  } else {
    ::munmap(base, room);
  }
  return placed;
}

bool LargePages::holds(const std::byte* at) const {
  return std::any_of(there_.begin(), there_.end(),
                     [&](const Piece& piece) { return at >= piece.data && at < piece.data + piece.bytes; });
}

}  // namespace coterie::runtime
