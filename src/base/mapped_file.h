#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace coterie::base {

/// A whole file, mapped read-only. Pages come in when they are touched: opening costs the same for any size.
class MappedFile {
 public:
  /// Throws not_found, io, or bad_input (a directory, an empty file).
  static MappedFile open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }
  int64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, int64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace coterie::base
