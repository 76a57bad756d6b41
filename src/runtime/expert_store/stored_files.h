#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/expert_store/block_reader.h"

namespace coterie::runtime {

/// Some bytes of a file as its mapping shows them, for a first read that is compared with them.
struct FileSample {
  int64_t offset = 0;
  std::span<const std::byte> bytes;
};

/// Files opened for reading past the page cache (O_DIRECT) where all of them can be, otherwise through it. Which
/// alignment that takes is asked of the system (statx, Linux 6.1), else tried; then one real read of each file is
/// compared with its mapping, so that a file system that only pretends is found out here.
class StoredFiles {
 public:
  struct Options {
    bool direct = true;  // false: through the page cache, even where it could be avoided
  };

  /// `samples`: one for each file. Throws io for a file that cannot be opened or read, or that has other bytes than its
  /// mapping.
  StoredFiles(std::span<const std::filesystem::path> files, std::span<const FileSample> samples, Options options);
  StoredFiles(StoredFiles&& other) noexcept
      : files_(std::move(other.files_)), direct_(other.direct_), unit_(other.unit_) {
    other.files_.clear();
  }
  ~StoredFiles();

  bool direct() const { return direct_; }
  int64_t unit() const { return unit_; }
  int descriptor(int32_t file) const { return files_[static_cast<size_t>(file)].descriptor; }
  bool changed(int32_t file) const;

  /// Reads one piece to its end, or the file's; waits. Safe to use from several threads.
  ReadDone read(const ReadPiece& piece) const;
  /// After a piece came through the page cache: the cache need not keep it.
  void forget(const ReadPiece& piece) const;

 private:
  struct File {
    std::filesystem::path path;
    int descriptor = -1;
    int64_t size = 0, changed_seconds = 0, changed_nanoseconds = 0;
  };
  void open(bool direct);
  void close();
  bool same_bytes(std::span<const FileSample> samples) const;

  std::vector<File> files_;
  bool direct_ = false;
  int64_t unit_ = 0;
};

}  // namespace coterie::runtime
