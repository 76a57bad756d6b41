#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

/// Tensors that lie in memory of any `Storage`, which is kept as long as the source.
template <typename Storage>
class MemorySource : public TensorSource {
 public:
  /// `tensors` point into `storage`, which may be moved without moving its bytes.
  MemorySource(Storage storage, std::vector<TensorInfo> tensors, Metadata metadata, Format format, std::string where)
      : storage_(std::move(storage)),
        tensors_(std::move(tensors)),
        metadata_(std::move(metadata)),
        format_(format),
        where_(std::move(where)) {
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (!index_.try_emplace(tensors_[i].name, i).second)
        base::fail(base::ErrorKind::bad_input, where_, "tensor \"{}\" is given twice", tensors_[i].name);
  }

  Format format() const override { return format_; }
  std::string where() const override { return where_; }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = index_.find(std::string(name));
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  const Metadata& metadata() const override { return metadata_; }
  int64_t file_bytes() const override {
    int64_t bytes = 0;
    for (const TensorInfo& tensor : tensors_) bytes += static_cast<int64_t>(tensor.bytes.size());
    return bytes;
  }

 private:
  Storage storage_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;
  Metadata metadata_;
  Format format_;
  std::string where_;
};

}  // namespace coterie::checkpoint
