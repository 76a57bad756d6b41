#include <array>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "base/atomic_file.h"
#include "checkpoint/gguf_types.h"
#include "checkpoint/parsed_file.h"
#include "checkpoint/produce.h"
#include "checkpoint/tensor_sink.h"

namespace coterie::checkpoint {

using base::ErrorKind;
using base::fail;

namespace {

constexpr size_t kNameLimit = 63;  // ggml's GGML_MAX_NAME, less its terminator

class Header {
 public:
  template <typename T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void string(std::string_view text) {
    number<uint64_t>(text.size());
    bytes_.append(text);
  }
  void type(GgufType type) { number(static_cast<uint32_t>(type)); }
  void pad(int64_t alignment) {
    const size_t unit = static_cast<size_t>(alignment);
    bytes_.resize((bytes_.size() + unit - 1) / unit * unit, '\0');
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Metadata knows only the kinds of numbers, readers of GGUF expect widths: 32 bits for all that fit, as converters
// write them. A double that a float cannot hold exactly keeps its 64 bits, so nothing is rounded on the way.
bool fits_float(double value) {
  if (std::isnan(value) || std::isinf(value)) return true;
  return std::abs(value) <= double{std::numeric_limits<float>::max()} && double{static_cast<float>(value)} == value;
}

template <typename Range>
GgufType width(const Range& values) {
  using Value = std::decay_t<decltype(*std::begin(values))>;
  for (const Value value : values) {
    if constexpr (std::is_same_v<Value, double>) {
      if (!fits_float(value)) return GgufType::f64;
    } else if constexpr (std::is_same_v<Value, uint64_t>) {
      if (value > std::numeric_limits<uint32_t>::max()) return GgufType::u64;
    } else {
      if (value != static_cast<int32_t>(value)) return GgufType::i64;
    }
  }
  if constexpr (std::is_same_v<Value, double>) return GgufType::f32;
  if constexpr (std::is_same_v<Value, uint64_t>) return GgufType::u32;
  return GgufType::i32;
}

template <typename Value>
void put(Header& header, GgufType type, Value value) {
  switch (type) {
    case GgufType::f32: return header.number(static_cast<float>(value));
    case GgufType::f64: return header.number(static_cast<double>(value));
    case GgufType::u16: return header.number(static_cast<uint16_t>(value));
    case GgufType::u32: return header.number(static_cast<uint32_t>(value));
    case GgufType::u64: return header.number(static_cast<uint64_t>(value));
    case GgufType::i32: return header.number(static_cast<int32_t>(value));
    case GgufType::i64: return header.number(static_cast<int64_t>(value));
    default: fail(ErrorKind::internal, "write_gguf", "a number of type {}", static_cast<uint32_t>(type));
  }
}

struct PutValue {
  Header& header;
  bool half_width;  // split.no and split.count are u16 by specification

  void operator()(bool value) const { header.type(GgufType::boolean), header.number<uint8_t>(value); }
  void operator()(const std::string& value) const { header.type(GgufType::string), header.string(value); }
  template <typename Value>
  void operator()(Value value) const {
    const GgufType type = half_width ? GgufType::u16 : width(std::array{value});
    header.type(type);
    put(header, type, value);
  }
  void operator()(const std::vector<bool>& values) const {
    list(GgufType::boolean, values.size());
    for (const bool value : values) header.number<uint8_t>(value);
  }
  void operator()(const std::vector<std::string>& values) const {
    list(GgufType::string, values.size());
    for (const std::string& value : values) header.string(value);
  }
  template <typename Value>
  void operator()(const std::vector<Value>& values) const {
    const GgufType type = width(values);
    list(type, values.size());
    for (const Value value : values) put(header, type, value);
  }
  void list(GgufType type, size_t count) const {
    header.type(GgufType::array);
    header.type(type);
    header.number<uint64_t>(count);
  }
};

int64_t padded(int64_t bytes) { return (bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment; }

Header make_header(std::span<const TensorToWrite> tensors, const Metadata& metadata, const std::string& where) {
  if (const auto alignment = integer(metadata, "general.alignment", where); alignment && *alignment != kGgufAlignment)
    fail(ErrorKind::unsupported, where, "general.alignment {}: only {} is written", *alignment, kGgufAlignment);
  Header header;
  header.number<uint32_t>(0x46554747);  // "GGUF"
  header.number(kGgufVersion);
  header.number<uint64_t>(tensors.size());
  header.number<uint64_t>(metadata.size());
  for (const auto& [key, value] : metadata) {
    header.string(key);
    const auto* number = std::get_if<uint64_t>(&value);
    const bool half = number && *number <= 0xffff && (key == "split.no" || key == "split.count");
    std::visit(PutValue{header, half}, value);
  }
  std::unordered_set<std::string_view> names;
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const std::string place = fmt::format("{}: {}", where, shown(tensor.name));
    if (tensor.name.empty() || tensor.name.size() > kNameLimit)
      fail(ErrorKind::bad_input, place, "a tensor's name in GGUF has 1 to {} bytes, this one {}", kNameLimit,
           tensor.name.size());
    if (!names.insert(tensor.name).second) fail(ErrorKind::bad_input, place, "the name is taken");
    // GGUF has no dimensionless tensors: a single value is a list of one.
    const tensor::Shape shape = tensor.shape.empty() ? tensor::Shape{1} : tensor.shape;
    if (shape.size() > kGgufMaxDims)
      fail(ErrorKind::unsupported, place, "{} dimensions; GGUF has at most {}", shape.size(), kGgufMaxDims);
    header.string(tensor.name);
    header.number(static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) header.number(shape[i]);
    header.number(ggml_id(tensor.dtype, place));
    header.number<uint64_t>(static_cast<uint64_t>(offset));
    offset += padded(checked_bytes(tensor.dtype, shape, place));
  }
  header.pad(kGgufAlignment);
  return header;
}

}  // namespace

void write_gguf(const std::filesystem::path& path, std::span<const TensorToWrite> tensors, const Metadata& metadata) {
  const std::string where = path.string();
  const Header header = make_header(tensors, metadata, where);
  base::AtomicFile file(path);
  file.write(header.bytes());
  constexpr std::array<std::byte, kGgufAlignment> kZeros{};
  for (const TensorToWrite& tensor : tensors) {
    produce(tensor, file, where);
    file.write(std::span(kZeros).first(static_cast<size_t>(padded(file.position()) - file.position())));
  }
  file.commit();
}

}  // namespace coterie::checkpoint
