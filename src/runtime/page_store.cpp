#include "runtime/page_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "base/fnv.h"

namespace coterie::runtime {

namespace {

namespace fs = std::filesystem;
using base::ErrorKind;

constexpr char kMagic[16] = "coterie pages 1";
constexpr uint32_t kNobody = UINT32_MAX;
enum RecordKind : uint32_t { kRoot = 1, kPage = 2, kState = 3 };

/// What stands before each record's bytes; numbers as this machine writes them, which kOrder checks.
struct Head {
  uint32_t kind = 0, parent = kNobody;
  PageStore::Ids ids = {};
  uint64_t size = 0;      // of the bytes behind it
  uint64_t sum = 0;       // of those bytes
  uint64_t head_sum = 0;  // of all above
};
struct Front {
  char magic[16];
  uint64_t order = 0, fingerprint_size = 0;
};
constexpr uint64_t kOrder = 0x0102030405060708;

/// Eight bytes at a time: as fast as memory is read.
uint64_t sum_of(std::span<const std::byte> bytes) {
  std::array<uint64_t, 4> lanes = {base::kFnvBegin, ~base::kFnvBegin, 1, 2};
  size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32)
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at + 8 * lane, 8);
      lanes[lane] = base::fnv_step(lanes[lane], word);
      lanes[lane] ^= lanes[lane] >> 29;
    }
  uint64_t hash = bytes.size();
  for (const uint64_t lane : lanes) hash = base::fnv_step(hash ^ hash >> 31, lane);
  for (; at < bytes.size(); ++at) hash = base::fnv_step(hash, static_cast<uint64_t>(bytes[at]));
  return hash ^ hash >> 32;
}

uint64_t head_sum(const Head& head) {
  return sum_of(std::as_bytes(std::span(&head, 1)).first(offsetof(Head, head_sum)));
}

[[noreturn]] void fail_io(const fs::path& path, std::string_view verb) {
  base::fail(ErrorKind::io, path.string(), "cannot be {}: {}", verb, std::strerror(errno));
}

bool read_at(int file, int64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(file, bytes.data(), bytes.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(got)), offset += got;
  }
  return true;
}

bool write_at(int file, int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(file, bytes.data(), bytes.size(), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(put)), offset += put;
  }
  return true;
}

}  // namespace

struct PageStore::File {
  fs::path path;
  int handle = -1;
  int64_t size = 0;
  struct Record {
    uint32_t kind;
    int64_t offset;  // of its bytes
    uint64_t size, sum;
    uint32_t state = kNobody;  // of a page: the record of the states after it
  };
  std::vector<Record> records;
  std::map<std::string, uint32_t> roots;
  std::map<std::pair<uint32_t, Ids>, uint32_t> pages;

  ~File() {
    if (handle >= 0) ::close(handle);
  }

  void note(const Head& head, int64_t offset, std::string key) {
    const auto number = static_cast<uint32_t>(records.size());
    records.push_back({head.kind, offset, head.size, head.sum});
    if (head.kind == kRoot) roots.emplace(std::move(key), number);
    if (head.kind == kPage) pages.emplace(std::pair(head.parent, head.ids), number);
    if (head.kind == kState) records[head.parent].state = number;
  }

  /// Makes it, or reads what it has. False for a file of another fingerprint, or none of ours.
  bool open(const std::string& fingerprint, bool fresh) {
    handle = ::open(path.c_str(), O_RDWR | O_CLOEXEC | (fresh ? O_CREAT | O_TRUNC : 0), 0600);
    if (handle < 0) fail_io(path, "opened");
    // Before anything is read or cut: what another writes is whole only for itself.
    if (::flock(handle, LOCK_EX | LOCK_NB) != 0)
      throw base::Error(ErrorKind::bad_input, path.string(), "is used by another server", "give each its own folder");
    Front front{};
    std::memcpy(front.magic, kMagic, sizeof(kMagic));
    front.order = kOrder, front.fingerprint_size = fingerprint.size();
    const auto text = std::as_bytes(std::span(fingerprint));
    const int64_t begin = static_cast<int64_t>(sizeof(Front) + text.size());
    if (fresh) {
      if (!write_at(handle, 0, std::as_bytes(std::span(&front, 1))) || !write_at(handle, sizeof(Front), text))
        fail_io(path, "written");
      return size = begin, true;
    }
    Front found{};
    std::string written(fingerprint.size(), '\0');
    if (!read_at(handle, 0, std::as_writable_bytes(std::span(&found, 1))) ||
        std::memcmp(&found, &front, sizeof(Front)) != 0 ||
        !read_at(handle, sizeof(Front), std::as_writable_bytes(std::span(written))) || written != fingerprint)
      return false;
    struct stat state {};
    if (::fstat(handle, &state) != 0) fail_io(path, "read");
    read_heads(begin, state.st_size);
    // What a crash left half written goes, so that whole records follow each other.
    if (size < state.st_size && ::ftruncate(handle, size) != 0) fail_io(path, "written");
    return true;
  }

  void read_heads(int64_t at, int64_t end) {
    Head head;
    constexpr auto kHead = static_cast<int64_t>(sizeof(Head));
    for (size = at; at + kHead <= end; size = at) {
      if (!read_at(handle, at, std::as_writable_bytes(std::span(&head, 1))) || head.head_sum != head_sum(head)) return;
      if (head.size > static_cast<uint64_t>(end - at - kHead)) return;
      const bool child = head.kind == kPage || head.kind == kState;
      if (child && (head.parent >= records.size() || records[head.parent].kind == kState)) return;
      std::string key;
      if (head.kind == kRoot) {
        key.resize(head.size);
        if (!read_at(handle, at + kHead, std::as_writable_bytes(std::span(key))) ||
            sum_of(std::as_bytes(std::span(key))) != head.sum)
          return;
      } else if (!child) {
        return;
      }
      note(head, at + kHead, std::move(key));
      at += kHead + static_cast<int64_t>(head.size);
    }
  }
};

PageStore::PageStore(const Options& options) : options_(options) {
  uint64_t hash = base::kFnvBegin;
  for (const unsigned char c : options_.fingerprint) hash = base::fnv_step(hash, c);
  name_ = fmt::format("pages-{:016x}-", hash);
  std::error_code code;
  fs::create_directories(options_.folder, code);
  if (code) throw base::Error(ErrorKind::io, options_.folder.string(), "cannot be made: " + code.message());
  std::vector<uint64_t> numbers;
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.folder)) {
    const std::string file = entry.path().filename().string();
    uint64_t number = 0;
    if (!file.starts_with(name_) || entry.path().extension() != ".bin") continue;
    std::from_chars(file.data() + name_.size(), file.data() + file.size(), number);
    if (number > 0) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  const auto open = [&](uint64_t number, bool fresh) {
    auto file = std::make_unique<File>();
    file->path = options_.folder / fmt::format("{}{}.bin", name_, number);
    if (!file->open(options_.fingerprint, fresh)) return false;
    newest_ = number;
    return files_[number] = std::move(file), true;
  };
  for (size_t i = numbers.size() > 2 ? numbers.size() - 2 : 0; i < numbers.size(); ++i) open(numbers[i], false);
  for (size_t i = 0; i + 2 < numbers.size(); ++i)
    fs::remove(options_.folder / fmt::format("{}{}.bin", name_, numbers[i]), code);
  if (files_.empty()) open((numbers.empty() ? 0 : numbers.back()) + 1, true);
}

PageStore::~PageStore() = default;

void PageStore::rotate() {
  while (files_.size() > 1) {
    std::error_code code;
    fs::remove(files_.begin()->second->path, code);
    files_.erase(files_.begin());
  }
  auto file = std::make_unique<File>();
  file->path = options_.folder / fmt::format("{}{}.bin", name_, newest_ + 1);
  file->open(options_.fingerprint, true);
  files_[++newest_] = std::move(file);
}

const PageStore::File* PageStore::file_of(Place place) const {
  const auto found = files_.find(place.file);
  return found == files_.end() ? nullptr : found->second.get();
}

bool PageStore::holds(Place place) const { return file_of(place) != nullptr; }

std::vector<PageStore::Place> PageStore::find_roots(const std::string& key) const {
  std::vector<Place> places;
  for (auto file = files_.rbegin(); file != files_.rend(); ++file)
    if (const auto found = file->second->roots.find(key); found != file->second->roots.end())
      places.push_back({file->first, found->second});
  return places;
}

PageStore::Place PageStore::current_root(const std::string& key) const {
  const std::vector<Place> places = find_roots(key);
  return !places.empty() && is_current(places.front()) ? places.front() : Place();
}

PageStore::Place PageStore::find(Place parent, const Ids& ids) const {
  const File* const file = file_of(parent);
  if (!file) return {};
  const auto found = file->pages.find({parent.record, ids});
  return found == file->pages.end() ? Place() : Place{parent.file, found->second};
}

bool PageStore::read_payload(const File& file, uint32_t number, std::span<std::byte> bytes) {
  const File::Record& record = file.records[number];
  if (record.size == bytes.size() && read_at(file.handle, record.offset, bytes) && sum_of(bytes) == record.sum)
    return true;
  ++damaged_;
  return false;
}

bool PageStore::read(Place place, std::span<std::byte> bytes) {
  const File* const file = file_of(place);
  if (!file) return false;
  if (read_payload(*file, place.record, bytes)) return ++pages_read_, true;
  forget(place);
  return false;
}

// A damaged page is not looked for again, so it is written anew when it has been computed.
void PageStore::forget(Place place) {
  File& file = *files_.at(place.file);
  std::erase_if(file.pages, [&](const auto& each) { return each.second == place.record; });
}

bool PageStore::has_state(Place place) const {
  const File* const file = file_of(place);
  return file && file->records[place.record].state != kNobody;
}

bool PageStore::read_state(Place place, std::span<std::byte> bytes) {
  return has_state(place) && read_payload(*file_of(place), file_of(place)->records[place.record].state, bytes);
}

uint32_t PageStore::append(uint32_t kind, uint32_t parent, const Ids& ids, std::span<const std::byte> bytes) {
  if (failed_) return kNobody;
  File& file = *files_.at(newest_);
  Head head{.kind = kind, .parent = parent, .ids = ids, .size = bytes.size(), .sum = sum_of(bytes)};
  head.head_sum = head_sum(head);
  constexpr auto kHead = static_cast<int64_t>(sizeof(Head));
  if (!write_at(file.handle, file.size, std::as_bytes(std::span(&head, 1))) ||
      !write_at(file.handle, file.size + kHead, bytes)) {
    failed_ = true;
    [[maybe_unused]] const int cut = ::ftruncate(file.handle, file.size);
    return kNobody;
  }
  const std::string key(kind == kRoot ? reinterpret_cast<const char*>(bytes.data()) : "",
                        kind == kRoot ? bytes.size() : 0);
  file.note(head, file.size + kHead, key);
  file.size += kHead + static_cast<int64_t>(bytes.size());
  return static_cast<uint32_t>(file.records.size() - 1);
}

void PageStore::make_room() {
  if (failed_ || files_.at(newest_)->size <= options_.limit / 2) return;
  try {
    rotate();
  } catch (const base::Error&) {
    failed_ = true;
  }
}

PageStore::Place PageStore::add_root(const std::string& key) {
  const uint32_t record = append(kRoot, kNobody, {}, std::as_bytes(std::span(key)));
  return record == kNobody ? Place() : Place{newest_, record};
}

PageStore::Place PageStore::add(Place parent, const Ids& ids, std::span<const std::byte> bytes) {
  base::require(is_current(parent), "page store", "a page without its parent in the same file");
  const uint32_t record = append(kPage, parent.record, ids, bytes);
  if (record == kNobody) return {};
  ++pages_written_;
  return {newest_, record};
}

void PageStore::add_state(Place page, std::span<const std::byte> bytes) {
  if (is_current(page) && !has_state(page)) append(kState, page.record, {}, bytes);
}

}  // namespace coterie::runtime
