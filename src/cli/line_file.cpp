#include "cli/line_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "cli/text_input.h"

namespace coterie::cli {

using base::ErrorKind;

namespace {
constexpr size_t kPiece = 1 << 16, kLongest = size_t{256} << 20;
}

LineFile::LineFile(const std::string& path) : name_(name_of_input(path)) {
  std::error_code absent;
  if (path != "-" && std::filesystem::is_directory(path, absent))
    base::fail(ErrorKind::bad_input, path, "is a folder, expected a file");
  file_.reset(path == "-" ? stdin : std::fopen(path.c_str(), "rbe"));
  if (!file_)
    base::fail(errno == ENOENT || errno == ENOTDIR ? ErrorKind::not_found : ErrorKind::io, path, "cannot be opened: {}",
               std::strerror(errno));
}

LineFile::LineFile(int descriptor, const std::string& path) : name_(path) {
  const int copy = ::dup(descriptor);
  file_.reset(copy < 0 ? nullptr : ::fdopen(copy, "rb"));
  if (!file_) base::fail(ErrorKind::io, path, "cannot be read: {}", std::strerror(errno));
}

bool LineFile::next(std::string& line) {
  line.clear();
  for (;;) {
    const size_t end = buffer_.find('\n', at_);
    whole_ = end != std::string::npos;
    line.append(buffer_, at_, whole_ ? end - at_ : std::string::npos);
    at_ = whole_ ? end + 1 : buffer_.size();
    if (whole_) break;
    if (line.size() > kLongest)
      base::fail(ErrorKind::bad_input, fmt::format("{}, line {}", name_, number_ + 1), "is longer than 256 MiB");
    buffer_.resize(kPiece), at_ = 0;
    const size_t got = std::fread(buffer_.data(), 1, kPiece, file_.get());
    buffer_.resize(got);
    if (got == 0 && std::ferror(file_.get()))
      base::fail(ErrorKind::io, name_, "cannot be read: {}", std::strerror(errno));
    if (got == 0 && line.empty()) return false;
    if (got == 0) break;
  }
  ++number_;
  end_ += static_cast<int64_t>(line.size()) + (whole_ ? 1 : 0);
  if (number_ == 1 && line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
  return true;
}

}  // namespace coterie::cli
