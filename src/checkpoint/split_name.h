#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace coterie::checkpoint {

/// NAME-00002-of-00005.gguf: how parts of a split GGUF are called.
struct SplitName {
  std::filesystem::path prefix;  // the path up to NAME
  int number = 1, count = 1;     // counted from 1

  /// nullopt when the file is not called like a part.
  static std::optional<SplitName> parse(const std::filesystem::path& path);
  std::filesystem::path part(int which) const;
};

}  // namespace coterie::checkpoint
