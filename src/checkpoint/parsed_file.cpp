#include "checkpoint/parsed_file.h"

#include <limits>

namespace coterie::checkpoint {

std::string shown(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 100))
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      text += c;
  return name.size() > 100 ? text + "..." : text;
}

int64_t checked_bytes(tensor::DType dtype, const tensor::Shape& shape, std::string_view where) {
  const tensor::DTypeInfo& info = tensor::info(dtype);
  int64_t count = 1;
  bool overflow = false;
  for (const int64_t dim : shape) {
    if (dim < 0)
      base::fail(base::ErrorKind::bad_input, where, "shape {} has a negative dimension", tensor::to_string(shape));
    overflow |= __builtin_mul_overflow(count, dim, &count);
  }
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (row % info.block_values != 0)
    base::fail(base::ErrorKind::bad_input, where, "rows of {} values do not divide into {} blocks of {}", row,
               info.name, info.block_values);
  int64_t bytes = 0;
  overflow |= __builtin_mul_overflow(count / info.block_values, info.block_bytes, &bytes);
  if (overflow)
    base::fail(base::ErrorKind::bad_input, where, "shape {} of {} has more bytes than 2^63", tensor::to_string(shape),
               info.name);
  return bytes;
}

std::optional<int64_t> integer(const Metadata& metadata, std::string_view key, std::string_view where) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  if (const auto* value = std::get_if<int64_t>(&found->second)) return *value;
  if (const auto* value = std::get_if<uint64_t>(&found->second))
    if (*value <= uint64_t{std::numeric_limits<int64_t>::max()}) return static_cast<int64_t>(*value);
  base::fail(base::ErrorKind::bad_input, where, "key \"{}\": expected an integer below 2^63", key);
}

}  // namespace coterie::checkpoint
