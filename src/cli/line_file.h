#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace coterie::cli {

/// The lines of a file of any size, or of standard input for "-", one at a time, without a byte order mark.
class LineFile {
 public:
  /// Throws not_found or io where it cannot be opened, bad_input for a folder.
  explicit LineFile(const std::string& path);
  /// From where the descriptor stands, which stays open; `path` is for errors.
  LineFile(int descriptor, const std::string& path);

  /// The next line, without its end; false when there is none. Throws io, and bad_input for a line beyond 256 MiB.
  bool next(std::string& line);
  int64_t number() const { return number_; }  // of the last line, from 1
  bool whole() const { return whole_; }       // whether it had an end
  int64_t end() const { return end_; }        // bytes up to and with it

 private:
  struct Close {
    void operator()(std::FILE* file) const {
      if (file != stdin) std::fclose(file);
    }
  };
  std::string name_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string buffer_;
  size_t at_ = 0;
  int64_t number_ = 0, end_ = 0;
  bool whole_ = false;
};

}  // namespace coterie::cli
