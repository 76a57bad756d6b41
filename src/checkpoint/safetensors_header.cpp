#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "checkpoint/parsed_file.h"
#include "checkpoint/safetensors_dtypes.h"

// The format: 8 bytes of little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then the
// tensors' bytes without gaps. The checks are those of the reference (huggingface/safetensors, `Metadata::validate`),
// and two more: a duplicate name and an unknown key of a tensor are refused, which the reference lets pass.
namespace coterie::checkpoint {

using base::ErrorKind;
using base::fail;

namespace {

constexpr uint64_t kHeaderLimit = 100'000'000;  // the reference's own

struct Entry {
  std::string name;
  std::optional<tensor::DType> dtype;
  std::optional<std::vector<int64_t>> shape, offsets;
};

/// Receives the header's JSON in events: a header of 100,000 tensors is read in one pass without a tree.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(std::string_view where) : where_(where) {}

  std::vector<Entry> entries;
  Metadata metadata;

  bool null() override { return unexpected("null"); }
  bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
  bool number_float(double, const std::string& text) override { return unexpected(text); }
  bool binary(binary_t&) override { return unexpected("binary"); }

  bool number_integer(int64_t value) override {
    if (!list_) return unexpected(std::to_string(value));
    list_->push_back(value);
    return true;
  }
  bool number_unsigned(uint64_t value) override {
    if (value > uint64_t{std::numeric_limits<int64_t>::max()}) return unexpected(std::to_string(value));
    return number_integer(static_cast<int64_t>(value));
  }

  bool string(std::string& value) override {
    if (level_ == Level::metadata) {
      if (!metadata.try_emplace(key_, value).second)
        fail(ErrorKind::bad_input, where_, "__metadata__ names \"{}\" twice", shown(key_));
    } else if (level_ == Level::tensor && key_ == "dtype") {
      if (entries.back().dtype) twice();
      entries.back().dtype = dtype_of_safetensors(value, place());
    } else {
      return unexpected(fmt::format("\"{}\"", shown(value)));
    }
    return true;
  }

  bool start_object(size_t) override {
    if (level_ == Level::start)
      level_ = Level::root;
    else if (level_ == Level::root && key_ == "__metadata__")
      level_ = Level::metadata;
    else if (level_ == Level::root)
      level_ = Level::tensor, entries.emplace_back().name = key_;
    else
      return unexpected("an object");
    return true;
  }
  bool end_object() override {
    level_ = level_ == Level::root ? Level::end : Level::root;
    return true;
  }

  bool key(std::string& value) override {
    key_ = value;
    if (level_ == Level::root && !names_.insert(value).second)
      fail(ErrorKind::bad_input, where_, "the header names \"{}\" twice", shown(value));
    if (level_ == Level::tensor && value != "dtype" && value != "shape" && value != "data_offsets")
      fail(ErrorKind::bad_input, place(), "unknown key \"{}\"; a tensor has dtype, shape and data_offsets",
           shown(value));
    return true;
  }

  bool start_array(size_t) override {
    if (list_ || level_ != Level::tensor || key_ == "dtype") return unexpected("a list");
    auto& list = key_ == "shape" ? entries.back().shape : entries.back().offsets;
    if (list) twice();
    list_ = &list.emplace();
    return true;
  }
  bool end_array() override {
    list_ = nullptr;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) override {
    std::string message = error.what();
    if (const size_t start = message.find("] "); start != std::string::npos) message = message.substr(start + 2);
    fail(ErrorKind::bad_input, where_, "the header is not valid JSON at byte {}: {}", position + 8, shown(message));
  }

 private:
  enum class Level { start, root, metadata, tensor, end };

  std::string place() const {
    return level_ == Level::tensor ? fmt::format("{}: {}", where_, shown(entries.back().name)) : std::string(where_);
  }
  [[noreturn]] void twice() const { fail(ErrorKind::bad_input, place(), "{} is given twice", key_); }
  [[noreturn]] bool unexpected(const std::string& found) const {
    switch (level_) {
      case Level::start:
      case Level::end: fail(ErrorKind::bad_input, where_, "the header is not a JSON object but {}", found);
      case Level::root: fail(ErrorKind::bad_input, where_, "\"{}\": expected an object, found {}", shown(key_), found);
      case Level::metadata:
        fail(ErrorKind::bad_input, where_, "__metadata__, key \"{}\": expected a string, found {}", shown(key_), found);
      case Level::tensor: break;
    }
    fail(ErrorKind::bad_input, place(), "{}: expected {}, found {}", key_,
         key_ == "dtype" ? "a string" : "a list of integers from 0 to 2^63", found);
  }

  std::string_view where_;
  Level level_ = Level::start;
  std::string key_;
  std::unordered_set<std::string> names_;
  std::vector<int64_t>* list_ = nullptr;
};

TensorInfo check_entry(Entry& entry, std::span<const std::byte> data, std::string_view where) {
  const std::string place = fmt::format("{}: {}", where, shown(entry.name));
  if (!entry.dtype) fail(ErrorKind::bad_input, place, "the header gives no dtype");
  if (!entry.shape) fail(ErrorKind::bad_input, place, "the header gives no shape");
  if (!entry.offsets) fail(ErrorKind::bad_input, place, "the header gives no data_offsets");
  if (entry.offsets->size() != 2)
    fail(ErrorKind::bad_input, place, "data_offsets: expected two numbers, found {}", entry.offsets->size());
  const int64_t begin = (*entry.offsets)[0], end = (*entry.offsets)[1], size = static_cast<int64_t>(data.size());
  if (begin < 0 || end < begin)
    fail(ErrorKind::bad_input, place, "data_offsets [{}, {}] are negative or reversed", begin, end);
  if (end > size)
    fail(ErrorKind::bad_input, place, "the tensor ends at byte {} of the data, but the file holds {} (cut off?)", end,
         size);
  const int64_t bytes = checked_bytes(*entry.dtype, *entry.shape, place);
  if (bytes != end - begin)
    fail(ErrorKind::bad_input, place, "{} {} takes {} bytes, but data_offsets [{}, {}] span {}",
         tensor::name(*entry.dtype), tensor::to_string(*entry.shape), bytes, begin, end, end - begin);
  return {std::move(entry.name), *entry.dtype, std::move(*entry.shape),
          data.subspan(static_cast<size_t>(begin), static_cast<size_t>(bytes))};
}

void check_layout(const std::vector<TensorInfo>& tensors, std::span<const std::byte> data, std::string_view where) {
  const std::byte* expected = data.data();
  const TensorInfo* last = nullptr;
  for (const TensorInfo& tensor : tensors) {
    const std::string place = fmt::format("{}: {}", where, shown(tensor.name));
    if (tensor.bytes.data() < expected)
      fail(ErrorKind::bad_input, place, "begins at byte {} of the data, inside \"{}\", which ends at {}",
           tensor.bytes.data() - data.data(), shown(last->name), expected - data.data());
    if (tensor.bytes.data() > expected)
      fail(ErrorKind::bad_input, place, "begins at byte {} of the data, but the tensors before it end at {}: a hole",
           tensor.bytes.data() - data.data(), expected - data.data());
    expected += tensor.bytes.size();
    last = &tensor;
  }
  const int64_t rest = data.data() + data.size() - expected;
  if (rest != 0) fail(ErrorKind::bad_input, where, "{} bytes after the last tensor belong to no tensor", rest);
}

}  // namespace

ParsedFile parse_safetensors(std::span<const std::byte> file, std::string_view where) {
  if (file.size() < 8)
    fail(ErrorKind::bad_input, where, "{} bytes are too few for a safetensors file, which begins with 8", file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > kHeaderLimit)
    fail(ErrorKind::bad_input, where, "a header of {} bytes: the format's limit is {} (is this a safetensors file?)",
         length, kHeaderLimit);
  if (length > file.size() - 8)
    fail(ErrorKind::bad_input, where, "the header ends at byte {}, but the file has {} (cut off?)", length + 8,
         file.size());
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, length);
  if (!header.starts_with('{')) fail(ErrorKind::bad_input, where, "the header does not begin with '{{'");

  HeaderReader reader(where);
  nlohmann::json::sax_parse(header.begin(), header.end(), &reader);

  const std::span<const std::byte> data = file.subspan(8 + length);
  ParsedFile parsed;
  parsed.metadata = std::move(reader.metadata);
  parsed.tensors.reserve(reader.entries.size());
  for (Entry& entry : reader.entries) parsed.tensors.push_back(check_entry(entry, data, where));
  // Empty tensors share their offset with a neighbour; ordering by the end as well puts them before it.
  std::stable_sort(parsed.tensors.begin(), parsed.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  check_layout(parsed.tensors, data, where);
  return parsed;
}

}  // namespace coterie::checkpoint
