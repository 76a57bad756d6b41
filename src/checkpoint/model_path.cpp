#include <algorithm>
#include <fstream>

#include "base/json.h"
#include "checkpoint/ensemble_file.h"
#include "checkpoint/quantized_source.h"
#include "checkpoint/run_layout.h"
#include "checkpoint/split_name.h"
#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

using base::ErrorKind;
namespace fs = std::filesystem;

namespace {

struct Folder {
  std::vector<std::string> ggufs;        // the first part of each split set stands for the set
  std::vector<std::string> safetensors;  // other than model.safetensors
  std::vector<std::string> foreign;      // weights in formats that are not read
  bool config = false, weights = false, gate = false;
};

Folder look(const fs::path& path) {
  Folder folder;
  std::error_code code;
  for (fs::directory_iterator item(path, code), end; !code && item != end; item.increment(code)) {
    const std::string name = item->path().filename().string();
    const std::string extension = item->path().extension().string();
    if (name == "config.json") folder.config = true;
    if (name == kEnsembleFile) folder.gate = true;
    if (name == "model.safetensors" || name == "model.safetensors.index.json") folder.weights = true;
    if (extension == ".gguf") {
      const auto split = SplitName::parse(name);
      if (!split || split->number == 1) folder.ggufs.push_back(name);
    } else if (extension == ".safetensors" && name != "model.safetensors") {
      folder.safetensors.push_back(name);
    } else if (extension == ".bin" || extension == ".pth" || extension == ".pt" || extension == ".onnx") {
      folder.foreign.push_back(name);
    }
  }
  if (code) base::fail(ErrorKind::io, path.string(), "the folder cannot be read: {}", code.message());
  for (auto* list : {&folder.ggufs, &folder.safetensors, &folder.foreign}) std::sort(list->begin(), list->end());
  return folder;
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 8 ? text + ", ..." : text;
}

ModelPath resolve_folder(const fs::path& path) {
  const Folder folder = look(path);
  const fs::path config = folder.config ? path / "config.json" : fs::path();
  if (folder.weights && folder.config) return {ModelPath::Kind::safetensors_folder, path, config};
  if (folder.weights)
    throw base::Error(ErrorKind::not_found, path.string(),
                      "the folder has safetensors weights but no config.json, which says what they are",
                      "download config.json from where the weights came from");
  if (folder.ggufs.size() == 1) return {ModelPath::Kind::gguf_file, path / folder.ggufs[0], config};
  if (folder.ggufs.size() > 1)
    throw base::Error(ErrorKind::bad_input, path.string(),
                      fmt::format("the folder holds {} GGUF models: {}", folder.ggufs.size(), join(folder.ggufs)),
                      "name the one to open");
  if (folder.config) return {ModelPath::Kind::config_only, config, config};
  if (folder.gate)
    throw base::Error(ErrorKind::unsupported, path.string(), "is an ensemble of several models, not one model",
                      "coterie run, chat, eval and serve take it; anything else takes one of its models");
  std::error_code absent;
  if (fs::exists(path / "adapter_config.json", absent))
    throw base::Error(ErrorKind::not_found, path.string(), "is an adapter, not a model",
                      "name the model, and this with `adapter`");
  if (const std::string run = run_hint(path); !run.empty())
    throw base::Error(ErrorKind::not_found, path.string(), "no model in the folder itself", run);
  std::string hint = "a model is a folder with config.json and safetensors, a .gguf file, or a config.json";
  if (!folder.safetensors.empty()) hint += fmt::format("; found only {}", join(folder.safetensors));
  if (!folder.foreign.empty()) hint += fmt::format("; {} is in a format that is not read", join(folder.foreign));
  throw base::Error(ErrorKind::not_found, path.string(),
                    "no model in the folder: looked for config.json, model.safetensors, "
                    "model.safetensors.index.json and *.gguf",
                    hint);
}

bool has_gguf_magic(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  return file.read(magic, 4) && std::string_view(magic, 4) == "GGUF";
}

}  // namespace

ModelPath resolve_model(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (status.type() == fs::file_type::not_found)
    throw base::Error(ErrorKind::not_found, path.string(), "there is no such file or folder",
                      "a model is a folder with config.json and safetensors, a .gguf file, or a config.json");
  if (code) base::fail(ErrorKind::io, path.string(), "cannot be read: {}", code.message());
  if (fs::is_directory(status)) return resolve_folder(path);

  if (!fs::is_regular_file(status))
    base::fail(ErrorKind::bad_input, path.string(), "expected a regular file or a folder");
  const std::string extension = path.extension().string();
  if (extension == ".gguf" || has_gguf_magic(path)) {
    const fs::path config = path.parent_path() / "config.json";
    return {ModelPath::Kind::gguf_file, path, fs::exists(config, code) ? config : fs::path()};
  }
  if (extension == ".json" && !path.filename().string().ends_with(".index.json"))
    return {ModelPath::Kind::config_only, path, path};
  if (extension == ".safetensors" || path.filename().string().ends_with(".safetensors.index.json"))
    throw base::Error(ErrorKind::bad_input, path.string(), "safetensors hold weights but do not say of what model",
                      fmt::format("name the folder that has config.json as well: {}",
                                  path.has_parent_path() ? path.parent_path().string() : "."));
  throw base::Error(ErrorKind::bad_input, path.string(), "not a model",
                    "a model is a folder with config.json and safetensors, a .gguf file, or a config.json");
}

std::unique_ptr<TensorSource> open_source(const ModelPath& model) {
  switch (model.kind) {
    case ModelPath::Kind::safetensors_folder: {
      std::unique_ptr<TensorSource> files = open_safetensors(model.path);
      if (model.config.empty()) return files;
      const auto quantization = read_quantization(base::read_json(model.config), model.config.string());
      return quantization ? quantized_source(std::move(files), *quantization) : std::move(files);
    }
    case ModelPath::Kind::gguf_file: return open_gguf(model.path);
    case ModelPath::Kind::config_only: return nullptr;
  }
  base::fail(ErrorKind::internal, model.path.string(), "a model path without a kind");
}

}  // namespace coterie::checkpoint
