#include "train/log_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"

namespace coterie::train {

using base::ErrorKind;

LogFile::LogFile(std::filesystem::path path, bool go_on) : path_(std::move(path)) {
  const bool there = go_on && std::filesystem::exists(path_);
  const std::string text = there ? base::read_text(path_, int64_t{1} << 32) : "";
  const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
  // From the last line back, until the last evaluation is found that counts: a run that went on from a checkpoint made
  // those after it anew.
  int64_t last = INT64_MAX;
  for (size_t end = whole; end > 0 && evaluated_ < 0;) {
    const size_t before = end == 1 ? std::string::npos : text.rfind('\n', end - 2);
    const size_t begin = before == std::string::npos ? 0 : before + 1;
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (end == whole || line.find("\"evaluation\"") != std::string_view::npos ||
        line.find("\"resume\"") != std::string_view::npos) {
      const base::Json event = base::parse_json(line, path_.string());
      const std::string kind = event.is_object() ? event.value("kind", "") : "";
      if (end == whole) ended_ = kind == "end";
      const int64_t step = kind.empty() ? -1 : event.value("step", int64_t{-1});
      if (kind == "resume" && step >= 0) last = std::min(last, step);
      if (kind == "evaluation" && step <= last) evaluated_ = step;
    }
    end = begin;
  }
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0 || ::ftruncate(descriptor_, static_cast<off_t>(whole)) != 0)
    base::fail(ErrorKind::io, path_.string(), "cannot be written: {}", std::strerror(errno));
}

LogFile::~LogFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void LogFile::write(const base::Json& event) {
  const std::string line = event.dump() + "\n";
  const off_t before = ::lseek(descriptor_, 0, SEEK_END);
  for (size_t done = 0; done < line.size();) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int reason = errno;
      // Half a line would hide the next one; if even this fails, read_run_log still passes over a last half line.
      [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, before);
      base::fail(ErrorKind::io, path_.string(), "cannot be written: {}", std::strerror(reason));
    }
    done += static_cast<size_t>(written);
  }
}

}  // namespace coterie::train
