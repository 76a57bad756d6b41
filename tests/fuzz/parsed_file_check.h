#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/parsed_file.h"
#include "fuzz/require.h"

namespace coterie {

/// What holds for any bytes: a parser either throws an Error with words in it, or every tensor it returns lies inside
/// the file, is as large as its shape says, has a name of its own and shares no byte with another.
template <typename Parser>
int check_parser(Parser parse, const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  checkpoint::ParsedFile parsed;
  try {
    parsed = parse(file, "file");
  } catch (const base::Error& error) {
    FUZZ_REQUIRE(!error.message().empty() && error.where().starts_with("file"));
    FUZZ_REQUIRE(error.kind() == base::ErrorKind::bad_input || error.kind() == base::ErrorKind::unsupported);
    return 0;
  }
  std::set<std::string> names;
  const std::byte* end = file.data();
  unsigned sum = 0;
  for (const checkpoint::TensorInfo& tensor : parsed.tensors) {
    FUZZ_REQUIRE(names.insert(tensor.name).second);
    for (const int64_t dim : tensor.shape) FUZZ_REQUIRE(dim >= 0);
    FUZZ_REQUIRE(static_cast<int64_t>(tensor.bytes.size()) ==
                 checkpoint::checked_bytes(tensor.dtype, tensor.shape, "x"));
    FUZZ_REQUIRE(tensor.bytes.data() >= end || tensor.bytes.empty());
    FUZZ_REQUIRE(tensor.bytes.data() >= file.data());
    FUZZ_REQUIRE(tensor.bytes.data() + tensor.bytes.size() <= file.data() + size);
    if (!tensor.bytes.empty()) end = tensor.bytes.data() + tensor.bytes.size();
    for (const std::byte byte : tensor.bytes) sum += static_cast<unsigned>(byte);
  }
  [[maybe_unused]] static volatile unsigned sink;
  sink = sum;
  return 0;
}

}  // namespace coterie
