#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/parsed_file.h"

// Files made byte by byte, so that a test can make each of them lie.
namespace coterie {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

template <typename T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

/// A safetensors file of a header and data as they are given.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return raw<uint64_t>(header.size()) + header + data;
}

/// A GGUF file whose every field can be set wrong.
struct GgufBytes {
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t tensor_count = -1, pair_count = -1;  // -1: as many as there are
  struct Tensor {
    std::string name;
    std::vector<int64_t> dims;  // innermost first, as in the file
    uint32_t type = 0;
    uint64_t offset = 0;
    int64_t dim_count = -1;
  };
  std::vector<Tensor> tensors;
  std::vector<std::string> pairs;
  std::string data;
  uint64_t alignment = 32;

  static std::string text(const std::string& value) { return raw<uint64_t>(value.size()) + value; }
  void pair(const std::string& key, uint32_t type, const std::string& value) {
    pairs.push_back(text(key) + raw(type) + value);
  }
  void u32(const std::string& key, uint32_t value) { pair(key, 4, raw(value)); }
  void u16(const std::string& key, uint16_t value) { pair(key, 2, raw(value)); }
  void string(const std::string& key, const std::string& value) { pair(key, 8, text(value)); }

  /// Adds a tensor whose data follow the last one's.
  void tensor(const std::string& name, std::vector<int64_t> dims, uint32_t type, const std::string& bytes) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    tensors.push_back({name, std::move(dims), type, data.size(), -1});
    data += bytes;
  }

  std::string str() const {
    std::string file = magic + raw(version);
    file += raw<int64_t>(tensor_count < 0 ? static_cast<int64_t>(tensors.size()) : tensor_count);
    file += raw<int64_t>(pair_count < 0 ? static_cast<int64_t>(pairs.size()) : pair_count);
    for (const std::string& bytes : pairs) file += bytes;
    for (const Tensor& tensor : tensors) {
      file += text(tensor.name);
      file += raw(
          static_cast<uint32_t>(tensor.dim_count < 0 ? static_cast<int64_t>(tensor.dims.size()) : tensor.dim_count));
      for (const int64_t dim : tensor.dims) file += raw(dim);
      file += raw(tensor.type) + raw(tensor.offset);
    }
    if (!tensors.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }
};

inline checkpoint::ParsedFile parse(const GgufBytes& file) {
  static std::string kept;  // the parsed tensors point into it
  kept = file.str();
  return checkpoint::parse_gguf(as_bytes(kept), "model.gguf");
}

}  // namespace coterie
