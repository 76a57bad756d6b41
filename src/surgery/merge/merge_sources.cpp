#include "surgery/merge/merge_sources.h"

#include <fmt/format.h>

#include "base/error.h"
#include "surgery/write/folder.h"

namespace coterie::surgery {

namespace fs = std::filesystem;
using base::ErrorKind;

fs::path MergeSources::find(const std::string& name, const std::string& where, std::string_view kinds) const {
  std::error_code absent;
  fs::path path = recipe_.parent_path() / name;
  if (!fs::exists(path, absent)) path = name;
  if (!fs::exists(path, absent)) {
    if (name.find('+') != std::string::npos)
      throw base::Error(ErrorKind::unsupported, where, fmt::format("\"{}\" names an adapter on a model", name),
                        "merge the adapter into its model first, and name that");
    throw base::Error(ErrorKind::not_found, where,
                      fmt::format("there is no \"{}\", beside the recipe or in the current folder", name),
                      fmt::format("models are {} here; nothing is downloaded", kinds));
  }
  return path;
}

const families::Model& MergeSources::open(const std::string& name, const std::string& where) {
  const fs::path path = find(name, where);
  const fs::path key = fs::weakly_canonical(path);
  const auto found = open_.find(key);
  if (found != open_.end()) return found->second;
  families::Model model = families::open_model(path);
  if (model.path.kind != checkpoint::ModelPath::Kind::safetensors_folder)
    throw base::Error(ErrorKind::unsupported, where,
                      fmt::format("{} is not a folder with config.json and safetensors", path.string()),
                      "convert a GGUF file to such a folder first");
  refuse_quantised(*model.source);
  return open_.emplace(key, std::move(model)).first->second;
}

}  // namespace coterie::surgery
