#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "checkpoint/gguf_types.h"
#include "checkpoint/parsed_file.h"

// GGUF v2/v3: magic, version, counts, key-values, tensor table, padding, data. Specification: ggml's docs/gguf.md.
// Whatever the file counts is compared with the bytes it has left before anything is allocated for it.
namespace coterie::checkpoint {

using base::ErrorKind;
using base::fail;

namespace {

// Values in all lists together. The longest lists of published files, of tokens and merges, have 2^18; without a limit
// a file of many gigabytes could ask for many times its size in memory.
constexpr int64_t kListLimit = int64_t{1} << 26;

/// Reads forward through the header; refuses to pass the end of the file.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view where) : file_(file), where_(where) {}

  int64_t list_values_left = kListLimit;

  int64_t position() const { return static_cast<int64_t>(position_); }
  int64_t left() const { return static_cast<int64_t>(file_.size() - position_); }
  std::string_view where() const { return where_; }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, bytes(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string string(std::string_view what) {
    const uint64_t length = number<uint64_t>(what);
    return std::string(reinterpret_cast<const char*>(bytes(length, what)), length);
  }

  /// A count of things that take at least `least` bytes each.
  int64_t count(int64_t least, std::string_view what) {
    const uint64_t value = number<uint64_t>(what);
    if (value > static_cast<uint64_t>(left() / least))
      fail(ErrorKind::bad_input, where_, "{}: {} would need at least {} bytes each, but only {} are left", what, value,
           least, left());
    return static_cast<int64_t>(value);
  }

 private:
  const std::byte* bytes(uint64_t size, std::string_view what) {
    if (size > file_.size() - position_)
      fail(ErrorKind::bad_input, where_, "{}: {} bytes at byte {} would pass the end of the file of {} (cut off?)",
           what, size, position_, file_.size());
    const std::byte* found = file_.data() + position_;
    position_ += size;
    return found;
  }

  std::span<const std::byte> file_;
  std::string_view where_;
  size_t position_ = 0;
};

GgufType read_type(Cursor& cursor, const std::string& what) {
  const uint32_t id = cursor.number<uint32_t>(what);
  if (id >= kGgufTypes) fail(ErrorKind::bad_input, cursor.where(), "{}: unknown value type {}", what, id);
  return static_cast<GgufType>(id);
}

template <typename Stored, typename Kept>
std::vector<Kept> read_array(Cursor& cursor, int64_t count, const std::string& what) {
  std::vector<Kept> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<Kept>(cursor.number<Stored>(what));
  return values;
}

MetaValue read_array(Cursor& cursor, const std::string& what) {
  const GgufType type = read_type(cursor, what);
  if (type == GgufType::array)
    fail(ErrorKind::unsupported, cursor.where(), "{}: lists of lists, which no published file has, are not supported",
         what);
  const int64_t count = cursor.count(least_bytes(type), what);
  if (count > cursor.list_values_left)
    fail(ErrorKind::bad_input, cursor.where(), "{}: a list of {} values; the limit is {} for all lists together", what,
         count, kListLimit);
  cursor.list_values_left -= count;
  switch (type) {
    case GgufType::u8: return read_array<uint8_t, uint64_t>(cursor, count, what);
    case GgufType::u16: return read_array<uint16_t, uint64_t>(cursor, count, what);
    case GgufType::u32: return read_array<uint32_t, uint64_t>(cursor, count, what);
    case GgufType::u64: return read_array<uint64_t, uint64_t>(cursor, count, what);
    case GgufType::i8: return read_array<int8_t, int64_t>(cursor, count, what);
    case GgufType::i16: return read_array<int16_t, int64_t>(cursor, count, what);
    case GgufType::i32: return read_array<int32_t, int64_t>(cursor, count, what);
    case GgufType::i64: return read_array<int64_t, int64_t>(cursor, count, what);
    case GgufType::f32: return read_array<float, double>(cursor, count, what);
    case GgufType::f64: return read_array<double, double>(cursor, count, what);
    case GgufType::boolean: {
      std::vector<bool> values(static_cast<size_t>(count));
      for (size_t i = 0; i < values.size(); ++i) values[i] = cursor.number<uint8_t>(what) != 0;
      return values;
    }
    case GgufType::string: {
      std::vector<std::string> values;
      for (int64_t i = 0; i < count; ++i) values.push_back(cursor.string(what));
      return values;
    }
    case GgufType::array: break;
  }
  fail(ErrorKind::internal, cursor.where(), "{}: value type without a case", what);
}

MetaValue read_value(Cursor& cursor, GgufType type, const std::string& what) {
  switch (type) {
    case GgufType::u8: return uint64_t{cursor.number<uint8_t>(what)};
    case GgufType::u16: return uint64_t{cursor.number<uint16_t>(what)};
    case GgufType::u32: return uint64_t{cursor.number<uint32_t>(what)};
    case GgufType::u64: return cursor.number<uint64_t>(what);
    case GgufType::i8: return int64_t{cursor.number<int8_t>(what)};
    case GgufType::i16: return int64_t{cursor.number<int16_t>(what)};
    case GgufType::i32: return int64_t{cursor.number<int32_t>(what)};
    case GgufType::i64: return cursor.number<int64_t>(what);
    case GgufType::f32: return double{cursor.number<float>(what)};
    case GgufType::f64: return cursor.number<double>(what);
    case GgufType::boolean: return cursor.number<uint8_t>(what) != 0;
    case GgufType::string: return cursor.string(what);
    case GgufType::array: return read_array(cursor, what);
  }
  fail(ErrorKind::internal, cursor.where(), "{}: value type without a case", what);
}

void read_version(Cursor& cursor) {
  const uint32_t magic = cursor.number<uint32_t>("magic");
  if (magic != 0x46554747)  // "GGUF"
    fail(ErrorKind::bad_input, cursor.where(), "not a GGUF file: it does not begin with \"GGUF\"");
  const uint32_t version = cursor.number<uint32_t>("version");
  if (version != 0 && (version & 0xffff) == 0)
    throw base::Error(ErrorKind::unsupported, std::string(cursor.where()), "big-endian GGUF files are not supported",
                      "convert it with gguf-py's gguf_convert_endian");
  if (version == 1)
    throw base::Error(ErrorKind::unsupported, std::string(cursor.where()),
                      "GGUF version 1 is not supported; versions 2 and 3 are",
                      "convert the model again with a current converter");
  if (version < 2 || version > kGgufVersion)
    fail(ErrorKind::unsupported, cursor.where(), "GGUF version {} is not supported; versions 2 and 3 are", version);
}

Metadata read_metadata(Cursor& cursor, int64_t pairs, int64_t& alignment) {
  Metadata metadata;
  for (int64_t i = 0; i < pairs; ++i) {
    const std::string key = cursor.string(fmt::format("key {} of {}", i + 1, pairs));
    if (key.empty()) fail(ErrorKind::bad_input, cursor.where(), "key {} of {} is empty", i + 1, pairs);
    const std::string what = fmt::format("key \"{}\"", shown(key));
    const GgufType type = read_type(cursor, what);
    MetaValue value = read_value(cursor, type, what);
    if (key == "general.alignment") {
      if (type != GgufType::u32) fail(ErrorKind::bad_input, cursor.where(), "{}: expected type u32", what);
      const uint64_t found = std::get<uint64_t>(value);
      if (found < 8 || !std::has_single_bit(found))
        fail(ErrorKind::bad_input, cursor.where(), "{}: expected a power of two from 8 on, found {}", what, found);
      alignment = static_cast<int64_t>(found);
    }
    if (!metadata.try_emplace(key, std::move(value)).second)
      fail(ErrorKind::bad_input, cursor.where(), "{} is given twice", what);
  }
  return metadata;
}

struct Entry {
  TensorInfo tensor;
  uint64_t offset;
  int64_t size;
};

Entry read_entry(Cursor& cursor, int64_t number, int64_t total, int64_t alignment) {
  Entry entry;
  entry.tensor.name = cursor.string(fmt::format("name of tensor {} of {}", number, total));
  const std::string name = shown(entry.tensor.name), place = fmt::format("{}: {}", cursor.where(), name);
  if (name.empty()) fail(ErrorKind::bad_input, cursor.where(), "tensor {} of {} has no name", number, total);
  const uint32_t dims = cursor.number<uint32_t>(name);
  if (dims < 1 || dims > kGgufMaxDims)
    fail(ErrorKind::bad_input, place, "expected 1 to {} dimensions, found {}", kGgufMaxDims, dims);
  entry.tensor.shape.resize(dims);
  // The file counts dims from the innermost, PyTorch from the outermost.
  for (uint32_t i = 0; i < dims; ++i) entry.tensor.shape[dims - 1 - i] = cursor.number<int64_t>(name);
  entry.tensor.dtype = dtype_of_ggml(cursor.number<uint32_t>(name), place);
  entry.offset = cursor.number<uint64_t>(name);
  entry.size = checked_bytes(entry.tensor.dtype, entry.tensor.shape, place);
  if (entry.offset % static_cast<uint64_t>(alignment) != 0)
    fail(ErrorKind::bad_input, place, "its offset {} is not a multiple of the alignment {}", entry.offset, alignment);
  return entry;
}

void place_tensors(std::vector<Entry>& entries, std::span<const std::byte> data, std::string_view where) {
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.offset, a.size) < std::pair(b.offset, b.size);
  });
  uint64_t end = 0;
  const Entry* last = nullptr;
  for (Entry& entry : entries) {
    const std::string place = fmt::format("{}: {}", where, shown(entry.tensor.name));
    const uint64_t size = static_cast<uint64_t>(entry.size);
    if (entry.offset > data.size() || size > data.size() - entry.offset)
      fail(ErrorKind::bad_input, place, "{} bytes at offset {} would pass the end of the data, {} bytes (cut off?)",
           size, entry.offset, data.size());
    if (entry.offset < end)
      fail(ErrorKind::bad_input, place, "begins at offset {}, inside \"{}\", which ends at {}", entry.offset,
           shown(last->tensor.name), end);
    entry.tensor.bytes = data.subspan(entry.offset, size);
    end = entry.offset + size;
    last = &entry;
  }
}

}  // namespace

ParsedFile parse_gguf(std::span<const std::byte> file, std::string_view where) {
  Cursor cursor(file, where);
  read_version(cursor);
  // The least a tensor takes: an empty name, one dimension, type and offset; a key-value: key, type and one byte.
  const int64_t tensors = cursor.count(8 + 4 + 8 + 4 + 8, "number of tensors");
  const int64_t pairs = cursor.count(8 + 4 + 1, "number of key-values");

  ParsedFile parsed;
  int64_t alignment = kGgufAlignment;
  parsed.metadata = read_metadata(cursor, pairs, alignment);

  std::vector<Entry> entries;
  std::unordered_set<std::string> names;
  for (int64_t i = 0; i < tensors; ++i) {
    const Entry& entry = entries.emplace_back(read_entry(cursor, i + 1, tensors, alignment));
    if (!names.insert(entry.tensor.name).second)
      fail(ErrorKind::bad_input, where, "tensor \"{}\" is listed twice", shown(entry.tensor.name));
  }

  const int64_t data_begin = (cursor.position() + alignment - 1) / alignment * alignment;
  if (tensors > 0) {
    if (data_begin > static_cast<int64_t>(file.size()))
      fail(ErrorKind::bad_input, where, "the data begin at byte {}, but the file has {} (cut off?)", data_begin,
           file.size());
    place_tensors(entries, file.subspan(static_cast<size_t>(data_begin)), where);
  }
  parsed.tensors.reserve(entries.size());
  for (Entry& entry : entries) parsed.tensors.push_back(std::move(entry.tensor));
  return parsed;
}

}  // namespace coterie::checkpoint
