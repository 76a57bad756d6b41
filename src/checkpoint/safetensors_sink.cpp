#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_set>

#include "base/atomic_file.h"
#include "checkpoint/parsed_file.h"
#include "checkpoint/produce.h"
#include "checkpoint/safetensors_dtypes.h"
#include "checkpoint/safetensors_layout.h"
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

std::vector<size_t> safetensors_order(std::span<const TensorToWrite> tensors) {
  // Wide types first, as the reference does: then every tensor is aligned to its own element.
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return tensor::info(tensors[a].dtype).block_bytes > tensor::info(tensors[b].dtype).block_bytes;
  });
  return order;
}

SafetensorsLayout lay_out_safetensors(const std::string& where, std::span<const TensorToWrite> tensors,
                                      const std::map<std::string, std::string>& metadata) {
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
  SafetensorsLayout layout;
  layout.begins.resize(tensors.size());
  std::unordered_set<std::string_view> names;
  int64_t offset = 0;
  for (const size_t index : safetensors_order(tensors)) {
    const TensorToWrite& tensor = tensors[index];
    const std::string place = fmt::format("{}: {}", where, shown(tensor.name));
    if (!names.insert(tensor.name).second || tensor.name == "__metadata__")
      base::fail(base::ErrorKind::bad_input, place, "the name is taken");
    const int64_t bytes = checked_bytes(tensor.dtype, tensor.shape, place);
    add_member(quoted(tensor.name, where), fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                                       safetensors_name(tensor.dtype, place),
                                                       fmt::join(tensor.shape, ","), offset, offset + bytes));
    layout.begins[index] = offset;
    offset += bytes;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data begin at a multiple of 8
  const uint64_t length = header.size();
  layout.head.assign(reinterpret_cast<const char*>(&length), sizeof length);
  layout.head += header;
  for (int64_t& begin : layout.begins) begin += std::ssize(layout.head);
  layout.bytes = std::ssize(layout.head) + offset;
  return layout;
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string where = path.string();
  const SafetensorsLayout layout = lay_out_safetensors(where, tensors, metadata);
  base::AtomicFile file(path);
  file.write(layout.head);
  for (const size_t index : safetensors_order(tensors)) produce(tensors[index], file, where);
  file.commit();
}

}  // namespace coterie::checkpoint
