#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_source.h"

// What the two file formats share. The parsers work on bytes in memory, so that tests and fuzzers reach them without
// a file; every TensorInfo they return points into the span they were given.
namespace coterie::checkpoint {

struct ParsedFile {
  std::vector<TensorInfo> tensors;  // by ascending offset
  Metadata metadata;
};

/// `where` names the file in messages. Throws bad_input for a file that lies or is cut off, unsupported (by name) for
/// what the format has and this reader lacks.
ParsedFile parse_safetensors(std::span<const std::byte> file, std::string_view where);
ParsedFile parse_gguf(std::span<const std::byte> file, std::string_view where);

/// A name out of a file, fit for a message: control characters escaped, cut after 100 bytes.
std::string shown(std::string_view name);

/// Bytes of a tensor. Throws bad_input when a dim is negative, the row is not a whole number of blocks, or the product
/// overflows; `where` names the tensor.
int64_t checked_bytes(tensor::DType dtype, const tensor::Shape& shape, std::string_view where);

/// An integer of the metadata, whatever its width; nullopt when absent. Throws bad_input when it is something else.
std::optional<int64_t> integer(const Metadata& metadata, std::string_view key, std::string_view where);

}  // namespace coterie::checkpoint
