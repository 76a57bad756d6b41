#pragma once

#include <cstdint>
#include <filesystem>

#include "base/json.h"

namespace coterie::train {

/// A run's log.jsonl, one object a line (lens/run_log.h says which). Each line is written at once, so that one who
/// reads while the run goes on sees whole lines.
class LogFile {
 public:
  /// Begins an empty file; or goes on behind one that is there, of which a line that was cut off is taken away. Throws
  /// io.
  LogFile(std::filesystem::path path, bool go_on);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  /// Whether the last event of the log as it was found is "end".
  bool ended() const { return ended_; }
  /// The step of the last evaluation that counts in the log as it was found; -1 without one.
  int64_t evaluated() const { return evaluated_; }

  /// Throws io (a full disk): the line is then taken away again.
  void write(const base::Json& event);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  bool ended_ = false;
  int64_t evaluated_ = -1;
};

}  // namespace coterie::train
