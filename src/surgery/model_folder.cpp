#include "surgery/model_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <numeric>

#include "base/atomic_file.h"
#include "base/error.h"

namespace coterie::surgery {

namespace fs = std::filesystem;
using base::ErrorKind;
using checkpoint::TensorToWrite;

namespace {

int64_t bytes_of(const TensorToWrite& tensor) {
  return tensor::row_bytes(tensor.dtype, tensor::element_count(tensor.shape));
}

void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

fs::path without_slash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

ModelFolder::ModelFolder(fs::path out) : out_(without_slash(out)) {
  static std::atomic<int> serial = 0;
  std::error_code error;
  if (fs::symlink_status(out_, error).type() != fs::file_type::not_found)
    throw base::Error(ErrorKind::bad_input, out_.string(), "there is something of that name already",
                      "give a new name, or remove it first");
  temporary_ = out_;
  temporary_ += fmt::format(".{}-{}.part", ::getpid(), serial++);
  fs::create_directory(temporary_, error);
  if (error) base::fail(ErrorKind::io, out_.string(), "cannot be made: {}", error.message());
}

ModelFolder::~ModelFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void ModelFolder::write_text(std::string_view name, std::string_view text) const {
  base::AtomicFile file(temporary_ / name);
  file.write(text);
  file.commit();
}

void ModelFolder::copy_text_files(const fs::path& from) const {
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json"}) {
    std::error_code absent;
    if (fs::is_regular_file(from / name, absent)) write_text(name, base::read_text(from / name));
  }
}

int64_t ModelFolder::write_weights(std::vector<TensorToWrite> tensors, int64_t shard_bytes,
                                   const OnProgress& on_progress) const {
  int64_t all = 0, done = 0, total = 0;
  for (const TensorToWrite& tensor : tensors) all += tensor::element_count(tensor.shape), total += bytes_of(tensor);
  std::vector<std::vector<TensorToWrite>> shards(1);
  int64_t filled = 0;
  for (TensorToWrite& tensor : tensors) {
    const int64_t bytes = bytes_of(tensor), values = tensor::element_count(tensor.shape);
    if (filled > 0 && filled + bytes > shard_bytes) shards.emplace_back(), filled = 0;
    filled += bytes;
    if (on_progress)
      tensor.produce = [&, values, name = tensor.name, produce = std::move(tensor.produce)](const auto& write) {
        on_progress(name, done, all);
        produce(write);
        done += values;
      };
    shards.back().push_back(std::move(tensor));
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};  // without it older readers refuse the file
  if (shards.size() == 1) {
    checkpoint::write_safetensors(temporary_ / "model.safetensors", shards[0], metadata);
    return total;
  }
  base::Json map = base::Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const TensorToWrite& tensor : shards[i]) map[tensor.name] = name;
    checkpoint::write_safetensors(temporary_ / name, shards[i], metadata);
  }
  write_json("model.safetensors.index.json", {{"metadata", {{"total_size", total}}}, {"weight_map", map}});
  return total;
}

void ModelFolder::commit() {
  sync(temporary_);
  std::error_code error;
  // A folder that has appeared meanwhile stays: rename replaces an empty one only.
  fs::rename(temporary_, out_, error);
  if (error) base::fail(ErrorKind::io, out_.string(), "cannot be written: {}", error.message());
  committed_ = true;
  sync(out_.parent_path().empty() ? fs::path(".") : out_.parent_path());
}

}  // namespace coterie::surgery
