#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/atomic_file.h"
#include "checkpoint/parsed_file.h"
#include "checkpoint/produce.h"
#include "checkpoint/safetensors_dtypes.h"
#include "checkpoint/tensor_sink.h"

namespace coterie::checkpoint {

namespace {

std::string quoted(std::string_view text, std::string_view where) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    base::fail(base::ErrorKind::bad_input, where, "\"{}\" is not valid UTF-8", shown(text));
  }
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string where = path.string();
  // Wide types first, as the reference does: then every tensor is aligned to its own element.
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    return tensor::info(a->dtype).block_bytes > tensor::info(b->dtype).block_bytes;
  });

  std::string header = "{";
  const auto add_member = [&](std::string_view name, std::string_view value) {
    if (header.size() > 1) header += ',';
    header.append(name).append(":").append(value);
  };
  if (!metadata.empty()) {
    std::string list;
    for (const auto& [key, value] : metadata)
      list += fmt::format("{}{}:{}", list.empty() ? "" : ",", quoted(key, where), quoted(value, where));
    add_member("\"__metadata__\"", fmt::format("{{{}}}", list));
  }
  std::unordered_set<std::string_view> names;
  int64_t offset = 0;
  for (const TensorToWrite* tensor : order) {
    const std::string place = fmt::format("{}: {}", where, shown(tensor->name));
    if (!names.insert(tensor->name).second || tensor->name == "__metadata__")
      base::fail(base::ErrorKind::bad_input, place, "the name is taken");
    const int64_t bytes = checked_bytes(tensor->dtype, tensor->shape, place);
    add_member(quoted(tensor->name, where), fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                                        safetensors_name(tensor->dtype, place),
                                                        fmt::join(tensor->shape, ","), offset, offset + bytes));
    offset += bytes;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data begin at a multiple of 8

  base::AtomicFile file(path);
  const uint64_t length = header.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
  for (const TensorToWrite* tensor : order) produce(*tensor, file, where);
  file.commit();
}

}  // namespace coterie::checkpoint
