#include "surgery/write/model_folder.h"

#include <fmt/format.h>

namespace coterie::surgery {

using checkpoint::TensorToWrite;

namespace {

int64_t bytes_of(const TensorToWrite& tensor) {
  return tensor::row_bytes(tensor.dtype, tensor::element_count(tensor.shape));
}

}  // namespace

void ModelFolder::copy_text_files(const std::filesystem::path& from) const {
  for (const auto& [name, text] : text_files(from)) folder_.write(name, text);
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
    fill([&](const auto& now) { checkpoint::write_safetensors(now / "model.safetensors", shards[0], metadata); });
    return total;
  }
  base::Json map = base::Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const TensorToWrite& tensor : shards[i]) map[tensor.name] = name;
    fill([&](const auto& now) { checkpoint::write_safetensors(now / name, shards[i], metadata); });
  }
  write_json("model.safetensors.index.json", {{"metadata", {{"total_size", total}}}, {"weight_map", map}});
  return total;
}

}  // namespace coterie::surgery
