#include "checkpoint/memory_source.h"

#include "checkpoint/parsed_file.h"
#include "checkpoint/random_source.h"

namespace coterie::checkpoint {

std::unique_ptr<TensorSource> memory_source(std::vector<MemoryTensor> tensors, Metadata metadata, Format format,
                                            std::string where) {
  std::vector<TensorInfo> infos;
  infos.reserve(tensors.size());
  for (MemoryTensor& tensor : tensors) {
    const std::string place = fmt::format("{}: {}", where, tensor.name);
    const int64_t expected = checked_bytes(tensor.dtype, tensor.shape, place);
    if (expected != static_cast<int64_t>(tensor.bytes.size()))
      base::fail(base::ErrorKind::bad_input, place, "{} {} takes {} bytes, {} were given", tensor::name(tensor.dtype),
                 tensor::to_string(tensor.shape), expected, tensor.bytes.size());
    infos.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
  }
  return std::make_unique<MemorySource<std::vector<MemoryTensor>>>(std::move(tensors), std::move(infos),
                                                                   std::move(metadata), format, std::move(where));
}

}  // namespace coterie::checkpoint
