#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace coterie::base {

namespace {
[[noreturn]] void fail_io(const std::filesystem::path& path, const char* verb) {
  fail(ErrorKind::io, path.string(), "cannot be {}: {}", verb, std::strerror(errno));
}
}  // namespace

AtomicFile::AtomicFile(std::filesystem::path target) : target_(std::move(target)) {
  static std::atomic<int> serial = 0;
  temporary_ = target_;
  temporary_ += fmt::format(".{}-{}.part", ::getpid(), serial++);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail_io(temporary_, "created");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_io(temporary_, "written");
    }
    position_ += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail_io(temporary_, "flushed");
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 || ::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    errno = code;
    fail_io(target_, "written");
  }
}

std::string read_text(const std::filesystem::path& path, int64_t limit) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    const int code = errno;
    fail(code == ENOENT ? ErrorKind::not_found : ErrorKind::io, path.string(), "cannot be opened: {}",
         std::strerror(code));
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
