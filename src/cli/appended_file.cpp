#include "cli/appended_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "cli/line_file.h"

namespace coterie::cli {

using base::ErrorKind;

AppendedFile::AppendedFile(std::string path, const std::function<void(std::string_view, int64_t)>& line)
    : path_(std::move(path)) {
  folders_.emplace(path_);
  try {
    open();
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_io();
    if (!S_ISREG(status.st_mode) || made_) return;
    LineFile lines(descriptor_, path_);
    int64_t whole = 0;
    for (std::string text; lines.next(text) && lines.whole(); whole = lines.end()) line(text, lines.number());
    if (whole < status.st_size && ::ftruncate(descriptor_, static_cast<off_t>(whole)) != 0) fail_io();
  } catch (...) {
    if (made_) ::unlink(path_.c_str());
    if (descriptor_ >= 0) ::close(descriptor_);
    throw;
  }
}

void AppendedFile::open() {
  struct stat there {};
  const bool special = ::stat(path_.c_str(), &there) == 0 && !S_ISREG(there.st_mode);
  if (special && S_ISDIR(there.st_mode))
    base::fail(ErrorKind::bad_input, path_, "is a folder, expected the name of a file to write");
  // Again where the file was taken away by a process that had made it and wrote nothing.
  for (;;) {
    const auto opened = [&](int flags) { return ::open(path_.c_str(), flags | O_APPEND | O_CLOEXEC, 0666); };
    descriptor_ = special ? opened(O_WRONLY) : opened(O_RDWR | O_CREAT | O_EXCL);
    made_ = !special && descriptor_ >= 0;
    if (descriptor_ < 0 && errno == EEXIST) descriptor_ = opened(O_RDWR | O_CREAT);
    if (descriptor_ < 0) fail_io();
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_io();
    if (!S_ISREG(status.st_mode)) return;
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      throw base::Error(ErrorKind::bad_input, path_, "another process is writing its lines into this file",
                        "wait until it has ended, or choose another file for -o");
    if (::fstat(descriptor_, &status) != 0) fail_io();
    if (status.st_nlink > 0) return;
    ::close(std::exchange(descriptor_, -1));
  }
}

AppendedFile::~AppendedFile() {
  if (made_) ::unlink(path_.c_str());
  ::close(descriptor_);
}

void AppendedFile::add(std::string_view line) {
  std::string text(line);
  text += '\n';
  for (size_t at = 0; at < text.size();) {
    const ssize_t written = ::write(descriptor_, text.data() + at, text.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_io();
    at += static_cast<size_t>(written);
    made_ = false;
    folders_->keep();
  }
}

void AppendedFile::fail_io() const { base::fail(ErrorKind::io, path_, "cannot be written: {}", std::strerror(errno)); }

}  // namespace coterie::cli
