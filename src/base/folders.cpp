#include "base/folders.h"

#include <system_error>

#include "base/error.h"

namespace coterie::base {

namespace fs = std::filesystem;

FoldersAbove::FoldersAbove(const fs::path& target) {
  std::error_code error;
  fs::path folder = fs::absolute(target, error).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // "name/"
  folder = folder.parent_path();
  std::vector<fs::path> missing;
  for (fs::path at = folder; !at.empty() && !fs::exists(at, error); at = at.parent_path()) missing.push_back(at);
  for (auto at = missing.rbegin(); at != missing.rend(); ++at) {
    if (fs::create_directory(*at, error)) made_.push_back(*at);
    if (!error) continue;
    remove();
    fail(ErrorKind::io, at->string(), "the folder cannot be created: {}", error.message());
  }
}

FoldersAbove::~FoldersAbove() { remove(); }

void FoldersAbove::remove() {
  std::error_code error;
  for (auto at = made_.rbegin(); at != made_.rend(); ++at)
    if (!fs::remove(*at, error)) break;
  made_.clear();
}

}  // namespace coterie::base
