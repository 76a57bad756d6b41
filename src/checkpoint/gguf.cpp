#include "checkpoint/file_source.h"
#include "checkpoint/split_name.h"
#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

using base::ErrorKind;
using base::fail;
namespace fs = std::filesystem;

namespace {

constexpr const char* kCount = "split.count";
constexpr const char* kNumber = "split.no";
constexpr const char* kTensors = "split.tensors.count";

void expect_key(const Metadata& metadata, const char* key, int64_t expected, const std::string& where) {
  const std::optional<int64_t> found = integer(metadata, key, where);
  if (!found) fail(ErrorKind::bad_input, where, "key \"{}\" is missing; the file name says this is a part", key);
  if (*found != expected)
    fail(ErrorKind::bad_input, where, "key \"{}\": expected {} by the file name, found {}", key, expected, *found);
}

/// Later parts repeat keys or have none: what they add is kept, what they contradict is refused.
void merge(Metadata& all, Metadata part, const std::string& where) {
  for (auto& [key, value] : part) {
    if (key == kNumber) continue;
    const auto [known, fresh] = all.try_emplace(key, value);
    if (!fresh && known->second != value)
      fail(ErrorKind::bad_input, where, "key \"{}\" differs from the first part's", shown(key));
  }
}

void add_part(FileSource& source, const fs::path& path, const SplitName& split, int number) {
  base::MappedFile file = base::MappedFile::open(path);
  ParsedFile parsed = parse_gguf(file.bytes(), path.string());
  expect_key(parsed.metadata, kCount, split.count, path.string());
  expect_key(parsed.metadata, kNumber, number - 1, path.string());
  source.add(std::move(file), std::move(parsed.tensors));
  if (number == 1)
    source.mutable_metadata() = std::move(parsed.metadata);
  else
    merge(source.mutable_metadata(), std::move(parsed.metadata), path.string());
}

std::unique_ptr<TensorSource> open_split(const fs::path& path, const SplitName& split) {
  if (split.number != 1)
    throw base::Error(ErrorKind::bad_input, path.string(),
                      fmt::format("part {} of a model in {} files", split.number, split.count),
                      fmt::format("name the first part: {}", split.part(1).string()));
  std::string absent;
  int missing = 0;
  std::error_code ignored;
  for (int number = 1; number <= split.count; ++number)
    if (!fs::exists(split.part(number), ignored) && ++missing <= 5)
      absent += (absent.empty() ? "" : ", ") + split.part(number).filename().string();
  if (missing > 0)
    throw base::Error(
        ErrorKind::not_found, path.string(),
        fmt::format("{} of {} parts are missing: {}{}", missing, split.count, absent, missing > 5 ? ", ..." : ""),
        "all parts of a split model must lie in one folder");
  auto source = std::make_unique<FileSource>(Format::gguf, path.string());
  for (int number = 1; number <= split.count; ++number) add_part(*source, split.part(number), split, number);
  const std::optional<int64_t> total = integer(source->metadata(), kTensors, path.string());
  const int64_t found = static_cast<int64_t>(source->tensors().size());
  if (total && *total != found)
    fail(ErrorKind::bad_input, path.string(), "key \"{}\" promises {} tensors, the {} parts hold {}", kTensors, *total,
         split.count, found);
  return source;
}

}  // namespace

std::unique_ptr<TensorSource> open_gguf(const fs::path& path) {
  if (const auto split = SplitName::parse(path); split && split->count > 1) return open_split(path, *split);
  base::MappedFile file = base::MappedFile::open(path);
  ParsedFile parsed = parse_gguf(file.bytes(), path.string());
  if (const int64_t count = integer(parsed.metadata, kCount, path.string()).value_or(1); count > 1)
    throw base::Error(ErrorKind::bad_input, path.string(),
                      fmt::format("key \"{}\" says this is one of {} parts, but the file name does not", kCount, count),
                      fmt::format("give the parts their names back: NAME-00001-of-{:05}.gguf", count));
  auto source = std::make_unique<FileSource>(Format::gguf, path.string());
  source->add(std::move(file), std::move(parsed.tensors));
  source->mutable_metadata() = std::move(parsed.metadata);
  return source;
}

}  // namespace coterie::checkpoint
