#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/folders.h"

namespace coterie::cli {

/// A file of lines that grows by one process at a time and goes on where an earlier one stopped. Missing folders above
/// it are made. A file that was made and got no line is taken away again. What is not a regular file (a pipe, a device)
/// only gets lines.
class AppendedFile {
 public:
  /// Calls `line` with each line that is there and its number, from 1; a last one without an end, which a full disk or
  /// a kill has left, is taken away. Throws bad_input where another process writes to it and for a folder, io where it
  /// cannot be opened, and what `line` throws; the file is then as it was.
  AppendedFile(std::string path, const std::function<void(std::string_view line, int64_t number)>& line);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;

  /// Appends the line and its end. Throws io.
  void add(std::string_view line);

 private:
  [[noreturn]] void fail_io() const;
  void open();

  std::string path_;
  std::optional<base::FoldersAbove> folders_;
  int descriptor_ = -1;
  bool made_ = false;  // by this process, and empty
};

}  // namespace coterie::cli
