#include "cli/line_reader.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace coterie::cli {

LineReader::Outcome LineReader::next(std::string& line) {
  for (;;) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return Outcome::line;
    }
    if (ended_) {
      if (buffer_.empty()) return Outcome::end;
      line = std::move(buffer_);
      buffer_.clear();
      return Outcome::line;
    }
    char piece[4096];
    const ssize_t got = ::read(STDIN_FILENO, piece, sizeof(piece));
    if (got > 0) {
      buffer_.append(piece, static_cast<size_t>(got));
    } else if (got == 0) {
      ended_ = true;
    } else if (errno == EINTR) {
      buffer_.clear();
      return Outcome::interrupted;
    } else {
      base::fail(base::ErrorKind::io, "standard input", "cannot be read: {}", std::strerror(errno));
    }
  }
}

}  // namespace coterie::cli
