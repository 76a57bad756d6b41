#include "base/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/leftovers.h"

namespace coterie::base {

namespace {
[[noreturn]] void fail_io(const std::filesystem::path& path, const char* verb) {
  fail(ErrorKind::io, path.string(), "cannot be {}: {}", verb, std::strerror(errno));
}

/// Returns 0, or -1 with errno, which is EEXIST where `to` exists.
int rename_new(const char* from, const char* to) {
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  // A file system that does not know it: NFS has links, FAT has neither.
  if (::link(from, to) == 0) return ::unlink(from);
  if (errno == EEXIST) return -1;
  if (::access(to, F_OK) == 0) {
    errno = EEXIST;
    return -1;
  }
  return ::rename(from, to);
}
}  // namespace

AtomicFile::AtomicFile(std::filesystem::path target, Existing existing) : target_(std::move(target)) {
  namespace fs = std::filesystem;
  static std::atomic<int> serial = 0;
  std::error_code absent;
  // The file a link points to is replaced, not the link; also where that file is still to be made.
  for (int links = 0; links < 40 && fs::is_symlink(target_, absent); ++links)
    target_ = target_.parent_path() / fs::read_symlink(target_, absent);
  const fs::file_status status = fs::status(target_, absent);
  if (fs::is_directory(status)) fail(ErrorKind::bad_input, target_.string(), "is a folder, expected a file to write");
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    // A device or a pipe is written as it goes: a rename would put a file in its place.
    descriptor_ = ::open(target_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail_io(target_, "opened");
    return;
  }
  replace_ = existing == Existing::replaced || fs::exists(status);
  folders_.emplace(target_);
  temporary_ = temporary_file(target_, serial++);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail_io(target_, "written");
  (void)::flock(descriptor_,
                LOCK_EX | LOCK_NB);  // it is somebody's; where there are no locks, its process alone says so
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_io(target_, "written");
    }
    position_ += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::write_at(int64_t position, std::span<const std::byte> bytes) {
  if (temporary_.empty()) fail(ErrorKind::bad_input, target_.string(), "is a device or a pipe, expected a file");
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), position);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_io(target_, "written");
    }
    position += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::commit() {
  if (temporary_.empty()) {
    if (::close(std::exchange(descriptor_, -1)) != 0) fail_io(target_, "written");
    return;
  }
  if (flush_ && ::fsync(descriptor_) != 0) fail_io(target_, "flushed to the disk");
  const int closed = ::close(std::exchange(descriptor_, -1));
  const char *const from = temporary_.c_str(), *const to = target_.c_str();
  if (closed != 0 || (replace_ ? ::rename(from, to) : rename_new(from, to)) != 0) {
    const int code = errno;
    ::unlink(from);
    if (code == EEXIST)
      throw Error(ErrorKind::bad_input, target_.string(),
                  "somebody else has made something of this name meanwhile: it was not replaced",
                  "choose another name, or start again with --force");
    errno = code;
    fail_io(target_, "written");
  }
  folders_->keep();
}

void write_text(const std::filesystem::path& path, std::string_view text, Existing existing) {
  AtomicFile file(path, existing);
  file.write(text);
  file.commit();
}

std::string read_text(const std::filesystem::path& path, int64_t limit) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    const int code = errno;
    fail(code == ENOENT || code == ENOTDIR ? ErrorKind::not_found : ErrorKind::io, path.string(),
         "cannot be opened: {}", std::strerror(code));
  }
  struct stat status {};
  if (::fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    fail(ErrorKind::bad_input, path.string(), "is a folder, expected a file");
  }
  std::string text;
  char chunk[1 << 16];
  for (;;) {
    const ssize_t got = ::read(descriptor, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || static_cast<int64_t>(text.size()) + got > limit) {
      const int code = errno;
      ::close(descriptor);
      if (got == 0) return text;
      if (got > 0) fail(ErrorKind::bad_input, path.string(), "larger than the {} bytes expected of such a file", limit);
      fail(ErrorKind::io, path.string(), "cannot be read: {}", std::strerror(code));
    }
    text.append(chunk, static_cast<size_t>(got));
  }
}

}  // namespace coterie::base
