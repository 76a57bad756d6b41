#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "checkpoint/parsed_file.h"
#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

/// Tensors in one or more mapped files.
class FileSource : public TensorSource {
 public:
  FileSource(Format format, std::string where) : format_(format), where_(std::move(where)) {}

  /// Adds a parsed file whose tensors point into `file`; its metadata is not merged. Throws bad_input when a name is
  /// already taken.
  void add(base::MappedFile file, std::vector<TensorInfo> tensors);
  Metadata& mutable_metadata() { return metadata_; }

  Format format() const override { return format_; }
  std::string where() const override { return where_; }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override;
  const Metadata& metadata() const override { return metadata_; }
  int64_t file_bytes() const override;
  std::string file_of(const TensorInfo& tensor) const override;
  std::optional<FilePlace> place_of(std::span<const std::byte> bytes) const override;

 private:
  Format format_;
  std::string where_;
  std::vector<base::MappedFile> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;
  Metadata metadata_;
};

}  // namespace coterie::checkpoint
