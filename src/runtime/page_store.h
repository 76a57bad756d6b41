#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/attention.h"

namespace coterie::runtime {

/// Pages of prefixes on disk, for the next process: a file that only grows, in which each page is written once. It is
/// a tree as PrefixCache is: a record names its parent's, so what is read is of exactly the tokens that are asked for.
/// A page whose bytes are not those that were written is not found. When the file has come to half of `limit` it
/// becomes the older of two, of which the older goes, and a new one begins. Used by one thread.
class PageStore {
 public:
  using Ids = std::array<int32_t, ops::kCacheBlock>;

  struct Options {
    std::filesystem::path folder;
    std::string fingerprint;  // all that a page's bits depend on beside its root's key and its tokens
    int64_t limit = 0;        // bytes on disk, both files together
  };
  /// Makes the folder and reads what a file of this fingerprint has, but for the pages themselves. What an interrupted
  /// write left is cut off. Throws io where it cannot be read or written, and bad_input where another process uses it.
  explicit PageStore(const Options& options);
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  /// Where a root or a page stands; the default: nowhere.
  struct Place {
    uint64_t file = 0;  // counts up; 0: none
    uint32_t record = 0;
  };
  /// Whether it is in a file that is still there; and whether in the one that is written to, as a parent has to be.
  bool holds(Place place) const;
  bool is_current(Place place) const { return place.file != 0 && place.file == newest_; }

  /// In both files, the one that is written to first.
  std::vector<Place> find_roots(const std::string& key) const;
  Place current_root(const std::string& key) const;
  Place find(Place parent, const Ids& ids) const;
  /// Reads a page into `bytes`, of which there are as many as were written. False where it is damaged.
  bool read(Place place, std::span<std::byte> bytes);
  /// Of the recurrent states after a page; false where there are none.
  bool read_state(Place place, std::span<std::byte> bytes);
  bool has_state(Place place) const;

  /// Begins a new file where the one that is written to has come to half of the limit. To be called before a path is
  /// added.
  void make_room();
  /// Each appends. `parent` must be current, as the result is. Nowhere once a write has failed: the disk is full, and
  /// nothing more is written.
  Place add_root(const std::string& key);
  Place add(Place parent, const Ids& ids, std::span<const std::byte> bytes);
  void add_state(Place page, std::span<const std::byte> bytes);

  uint64_t pages_written() const { return pages_written_; }
  uint64_t pages_read() const { return pages_read_; }
  uint64_t damaged() const { return damaged_; }
  bool failed() const { return failed_; }

 private:
  struct File;
  const File* file_of(Place place) const;
  void forget(Place place);
  bool read_payload(const File& file, uint32_t record, std::span<std::byte> bytes);
  uint32_t append(uint32_t kind, uint32_t parent, const Ids& ids, std::span<const std::byte> bytes);
  void rotate();

  Options options_;
  std::string name_;                                 // of the files, without their ends
  std::map<uint64_t, std::unique_ptr<File>> files_;  // at most two
  uint64_t newest_ = 0;
  uint64_t pages_written_ = 0, pages_read_ = 0, damaged_ = 0;
  bool failed_ = false;
};

}  // namespace coterie::runtime
