#pragma once

#include <filesystem>
#include <vector>

namespace coterie::base {

/// The folders above something that is to be written. They are made where they are missing, and those that were made
/// are taken away again, as far as they are empty, unless keep() is called: the one rule of all that writes.
class FoldersAbove {
 public:
  FoldersAbove() = default;
  /// Throws io, naming the folder that cannot be made; none is then left behind.
  explicit FoldersAbove(const std::filesystem::path& target);
  FoldersAbove(const FoldersAbove&) = delete;
  FoldersAbove& operator=(const FoldersAbove&) = delete;
  ~FoldersAbove();

  void keep() { made_.clear(); }
  /// Takes them away now.
  void remove();

 private:
  std::vector<std::filesystem::path> made_;  // outermost first
};

}  // namespace coterie::base
