#pragma once

#include <optional>
#include <string>

namespace coterie::cli {

/// Lines of standard input, by read(2): a Ctrl-C during a read is told apart from the end of the input.
class LineReader {
 public:
  enum class Outcome { line, end, interrupted };
  Outcome next(std::string& line);

 private:
  std::string buffer_;
  bool ended_ = false;
};

}  // namespace coterie::cli
