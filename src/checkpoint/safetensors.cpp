#include <map>
#include <unordered_set>

#include "base/json.h"
#include "checkpoint/file_source.h"
#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

using base::ErrorKind;
using base::fail;
namespace fs = std::filesystem;

namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Without the exception that std::filesystem throws for names that cannot exist.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

ParsedFile add_file(FileSource& source, const fs::path& path) {
  base::MappedFile file = base::MappedFile::open(path);
  ParsedFile parsed = parse_safetensors(file.bytes(), path.string());
  source.add(std::move(file), std::move(parsed.tensors));
  return parsed;
}

/// The index's weight_map inverted: the tensors that each shard is said to hold.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const std::string where = path.string();
  const base::Json json = base::read_json(path, base::DuplicateKeys::refuse);
  base::JsonReader reader(json, where);
  const base::Json* map = reader.object("weight_map");
  if (!map) fail(ErrorKind::bad_input, where, "key \"weight_map\" is missing");
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) fail(ErrorKind::bad_input, where, "weight_map \"{}\": expected a file name", shown(name));
    const std::string file = shard.get<std::string>();
    // A shard lies beside its index; anything else would let a checkpoint read files of its choice.
    if (file.empty() || fs::path(file).filename() != file || file == "." || file == ".." ||
        file.find('\0') != std::string::npos)
      fail(ErrorKind::bad_input, where, "weight_map \"{}\": \"{}\" is not a plain file name", shown(name), shown(file));
    shards[file].push_back(name);
  }
  if (shards.empty()) fail(ErrorKind::bad_input, where, "weight_map is empty");
  return shards;
}

std::unique_ptr<TensorSource> open_sharded(const fs::path& index, const fs::path& named) {
  const fs::path folder = index.parent_path();
  const auto shards = read_index(index);
  std::string absent;
  for (const auto& [shard, names] : shards)
    if (!is_there(folder / shard)) absent += (absent.empty() ? "" : ", ") + shown(shard);
  if (!absent.empty())
    throw base::Error(ErrorKind::not_found, index.string(),
                      fmt::format("names {} shards, of which the folder lacks: {}", shards.size(), absent),
                      "finish the download");

  auto source = std::make_unique<FileSource>(Format::safetensors, named.string());
  for (const auto& [shard, names] : shards) {
    const fs::path path = folder / shard;
    const size_t before = source->tensors().size();
    ParsedFile parsed = add_file(*source, path);
    if (source->mutable_metadata().empty()) source->mutable_metadata() = std::move(parsed.metadata);
    for (const std::string& name : names) {
      const TensorInfo* tensor = source->find(name);
      if (!tensor || static_cast<size_t>(tensor - source->tensors().data()) < before)
        fail(ErrorKind::bad_input, path.string(), "tensor \"{}\" is missing, which {} says is here", shown(name),
             kIndex);
    }
    // As many as the index names and each of those is there: then there is no other.
    const std::span<const TensorInfo> added = source->tensors().subspan(before);
    if (added.size() == names.size()) continue;
    const std::unordered_set<std::string_view> known(names.begin(), names.end());
    for (const TensorInfo& tensor : added)
      if (!known.contains(tensor.name))
        fail(ErrorKind::bad_input, path.string(), "tensor \"{}\" is not in {}", shown(tensor.name), kIndex);
  }
  return source;
}

}  // namespace

std::unique_ptr<TensorSource> open_safetensors(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (is_there(path / kSingle)) return open_safetensors(path / kSingle);
    if (is_there(path / kIndex)) return open_sharded(path / kIndex, path);
    fail(ErrorKind::not_found, path.string(), "the folder has neither {} nor {}", kSingle, kIndex);
  }
  if (path.filename().string().ends_with(".index.json")) return open_sharded(path, path);
  auto source = std::make_unique<FileSource>(Format::safetensors, path.string());
  source->mutable_metadata() = add_file(*source, path).metadata;
  return source;
}

}  // namespace coterie::checkpoint
