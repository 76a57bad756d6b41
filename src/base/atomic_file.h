#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/folders.h"

namespace coterie::base {

/// What becomes of a file of the target's name at commit().
enum class Existing {
  as_found,  // the one that was there at the beginning is replaced; one that somebody else has made since is not
  replaced,  // whatever is there is replaced: for files of our own that several processes keep
};

/// Writes beside the target under a temporary name (base/leftovers.h) and renames on commit(): a reader sees the old
/// file or the new one, never half of one. Without commit() the temporary is removed. Missing folders above the target
/// are made, and removed again without commit(). A symbolic link is followed; a device or a pipe is written directly.
class AtomicFile {
 public:
  /// Throws io when the folder cannot be written, bad_input when the target is a folder.
  explicit AtomicFile(std::filesystem::path target, Existing existing = Existing::as_found);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  int64_t position() const { return position_; }
  /// commit() is not to wait for the disk: for large files that the same command makes again. No reader sees half of
  /// one for it; but a power failure soon after may leave the file cut off.
  void skip_flush() { flush_ = false; }
  /// Writes elsewhere than at the end, for files whose parts grow side by side; position() stays. Throws bad_input
  /// where the target is a device or a pipe, which have no place but the end.
  void write_at(int64_t position, std::span<const std::byte> bytes);
  /// Flushes to the disk and renames. Throws io (a full disk, say), and bad_input where somebody else has made the
  /// target meanwhile (Existing::as_found); the target is then untouched.
  void commit();

 private:
  std::filesystem::path target_, temporary_;  // no temporary: written directly
  std::optional<FoldersAbove> folders_;
  bool replace_ = false;
  int descriptor_ = -1;
  int64_t position_ = 0;
  bool flush_ = true;
};

/// Writes a small text file whole or not at all, as AtomicFile does.
void write_text(const std::filesystem::path& path, std::string_view text, Existing existing = Existing::as_found);

/// The whole of a small text file. Throws not_found, io, or bad_input when it is a folder or larger than `limit` bytes.
std::string read_text(const std::filesystem::path& path, int64_t limit = 256 << 20);

}  // namespace coterie::base
