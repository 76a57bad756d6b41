#include "checkpoint/split_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace coterie::checkpoint {

namespace {
std::optional<int> five_digits(std::string_view text) {
  if (text.size() != 5 || !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return {};
  return std::stoi(std::string(text));
}
}  // namespace

std::optional<SplitName> SplitName::parse(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  constexpr size_t kTail = std::string_view("-00001-of-00002.gguf").size();
  if (name.size() <= kTail) return {};
  const std::string_view tail = std::string_view(name).substr(name.size() - kTail);
  const auto number = five_digits(tail.substr(1, 5)), count = five_digits(tail.substr(10, 5));
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || !tail.ends_with(".gguf") || !number || !count) return {};
  if (*number < 1 || *number > *count) return {};
  return SplitName{path.parent_path() / name.substr(0, name.size() - kTail), *number, *count};
}

std::filesystem::path SplitName::part(int which) const {
  std::filesystem::path path = prefix;
  path += fmt::format("-{:05}-of-{:05}.gguf", which, count);
  return path;
}

}  // namespace coterie::checkpoint
