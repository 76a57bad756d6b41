#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace coterie::base {

MappedFile MappedFile::open(const std::filesystem::path& path) {
  const std::string name = path.string();
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe is refused, not waited for
  if (descriptor < 0) {
    const int code = errno;
    fail(code == ENOENT ? ErrorKind::not_found : ErrorKind::io, name, "cannot be opened: {}", std::strerror(code));
  }
  struct stat status {};
  const bool known = ::fstat(descriptor, &status) == 0;
  if (!known || !S_ISREG(status.st_mode) || status.st_size == 0) {
    ::close(descriptor);
    if (known && S_ISREG(status.st_mode)) fail(ErrorKind::bad_input, name, "the file is empty");
    fail(ErrorKind::bad_input, name, "{}",
         known && S_ISDIR(status.st_mode) ? "is a folder, expected a file" : "expected a regular file");
  }
  void* data = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, descriptor, 0);
  const int code = errno;
  ::close(descriptor);
  if (data == MAP_FAILED) fail(ErrorKind::io, name, "cannot be mapped: {}", std::strerror(code));
  // What has to come from the disk then comes in large pages (where the file system has them), sooner, and is read
  // faster ever after: 2 GB/s for 1, and 45 for 27 (Linux 6.18, ext4, November 2026). A refusal costs speed only.
  ::madvise(data, static_cast<size_t>(status.st_size), MADV_HUGEPAGE);
  return MappedFile(path, static_cast<const std::byte*>(data), status.st_size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
}

}  // namespace coterie::base
