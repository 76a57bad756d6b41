#include "train/token_file.h"

#include <cstring>

#include "base/error.h"
#include "base/fnv.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "checkpoint/tensor_sink.h"

namespace coterie::train {

using base::ErrorKind;
using tensor::DType;

namespace {

constexpr std::string_view kNames[] = {"tokens", "input_ids"};

int64_t id_at(const checkpoint::TensorInfo& tensor, int64_t i) {
  if (tensor.dtype == DType::i32) {
    int32_t id = 0;
    std::memcpy(&id, tensor.bytes.data() + i * 4, 4);
    return id;
  }
  int64_t id = 0;
  std::memcpy(&id, tensor.bytes.data() + i * 8, 8);
  return id;
}

// The files of a recipe that is in this repository are fetched, not kept.
base::MappedFile open_data(const std::filesystem::path& path) {
  try {
    return base::MappedFile::open(path);
  } catch (const base::Error& error) {
    if (error.kind() != ErrorKind::not_found) throw;
    throw base::Error(
        error.kind(), error.where(), error.message(),
        "paths are relative to the recipe's file; recipes/README.md says how the data of the recipes there "
        "is fetched");
  }
}

}  // namespace

void for_each_line(const std::filesystem::path& path,
                   const std::function<void(const base::Json& object, const std::string& where)>& line) {
  const base::MappedFile file = open_data(path);
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view text = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}: line {}", path.string(), number);
    base::require_utf8(text, where, "the line");
    const base::Json json = base::parse_json(text, where);
    if (!json.is_object())
      base::fail(ErrorKind::bad_input, where, "expected a JSON object, found {}", json.type_name());
    line(json, where);
  }
}

void for_each_document(const TextSource& source, const std::function<void(std::string_view text)>& document) {
  if (source.format == TextSource::Format::text) {
    const base::MappedFile file = open_data(source.path);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    base::require_utf8(text, source.path.string(), "the text");
    return document(text);
  }
  for_each_line(source.path, [&](const base::Json& json, const std::string& where) {
    document(base::JsonReader(json, where).string(source.field));
  });
}

TokenFile TokenFile::open(const std::filesystem::path& path, int64_t vocabulary) {
  TokenFile file;
  file.source_ = checkpoint::open_safetensors(path);
  for (const std::string_view name : kNames)
    if (!file.tensor_) file.tensor_ = file.source_->find(name);
  if (!file.tensor_)
    throw base::Error(ErrorKind::not_found, path.string(), "has no tensor \"tokens\" (or \"input_ids\")",
                      "ids of type I32 or I64, in one or two dimensions");
  const checkpoint::TensorInfo& tensor = *file.tensor_;
  const std::string where = path.string() + ": " + tensor.name;
  if ((tensor.dtype != DType::i32 && tensor.dtype != DType::i64) || tensor.shape.empty() || tensor.shape.size() > 2)
    base::fail(ErrorKind::bad_input, where, "is {} {}, expected ids of type I32 or I64 in one or two dimensions",
               tensor::name(tensor.dtype), tensor::to_string(tensor.shape));
  file.size_ = tensor::element_count(tensor.shape);
  if (file.size_ == 0) base::fail(ErrorKind::bad_input, where, "holds no ids");
  file.fingerprint_ = base::kFnvBegin;
  for (int64_t i = 0; i < file.size_; ++i) {
    const int64_t id = id_at(tensor, i);
    if (id < 0 || id >= vocabulary)
      base::fail(ErrorKind::bad_input, where, "id {} at position {} is outside of the vocabulary of {}", id, i,
                 vocabulary);
    file.fingerprint_ = base::fnv_step(file.fingerprint_, static_cast<uint64_t>(id));
  }
  return file;
}

void TokenFile::read(int64_t begin, std::span<int32_t> out) const {
  base::require(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= size_, "train::TokenFile",
                "tokens {} to {} of {}", begin, begin + static_cast<int64_t>(out.size()), size_);
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<int32_t>(id_at(*tensor_, begin + static_cast<int64_t>(i)));
}

void write_token_file(const std::filesystem::path& path, std::span<const TextSource> sources,
                      const text::Tokenizer& tokenizer, std::optional<text::TokenId> separator,
                      const std::function<void(const TokenizingProgress&)>& progress) {
  if (sources.empty()) base::fail(ErrorKind::bad_input, "data", "no files are given");
  TokenizingProgress so_far;
  std::error_code absent;
  for (const TextSource& source : sources)
    so_far.total_bytes += static_cast<int64_t>(std::filesystem::file_size(source.path, absent));
  std::vector<int32_t> tokens;
  for (const TextSource& source : sources) {
    for_each_document(source, [&](std::string_view text) {
      std::vector<text::TokenId> ids;
      try {
        ids = tokenizer.encode(text, false);
      } catch (const base::Error& error) {
        throw base::Error(error.kind(), source.path.string(), error.message(), error.hint());
      }
      tokens.insert(tokens.end(), ids.begin(), ids.end());
      if (separator) tokens.push_back(*separator);
      so_far.bytes += static_cast<int64_t>(text.size());
      so_far.tokens = static_cast<int64_t>(tokens.size());
      ++so_far.documents;
      if (progress) progress(so_far);
    });
  }
  if (tokens.empty()) base::fail(ErrorKind::bad_input, sources.front().path.string(), "the texts are empty");
  const checkpoint::TensorToWrite tensor = {
      "tokens", DType::i32, {static_cast<int64_t>(tokens.size())}, [&](const auto& write) {
        write(std::as_bytes(std::span(tokens)));
      }};
  checkpoint::write_safetensors(path, {&tensor, 1});
}

}  // namespace coterie::train
