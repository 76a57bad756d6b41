#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "text/tokenizer.h"

namespace coterie::train {

/// Tokens on disk, mapped: a safetensors file with `tokens`, I32 [N], or I64 of one or two dimensions as other tools
/// write input_ids. Documents lie one after the other; what stands between them is in the tokens.
class TokenFile {
 public:
  /// Throws not_found without such a tensor, bad_input for an id outside of [0, vocabulary), naming its place.
  static TokenFile open(const std::filesystem::path& path, int64_t vocabulary);

  int64_t size() const { return size_; }
  /// A hash of the ids in their order, to recognise them (FNV-1a).
  uint64_t fingerprint() const { return fingerprint_; }
  /// Ids [begin, begin + out.size()).
  void read(int64_t begin, std::span<int32_t> out) const;

 private:
  std::shared_ptr<const checkpoint::TensorSource> source_;
  const checkpoint::TensorInfo* tensor_ = nullptr;
  int64_t size_ = 0;
  uint64_t fingerprint_ = 0;
};

/// What a text becomes tokens from.
struct TextSource {
  enum class Format { text, jsonl };
  std::filesystem::path path;
  Format format = Format::text;
  std::string field = "text";  // jsonl: the key of a line's object that holds the text
};

/// Calls `line` with each object of a JSONL file, and where it is for messages; empty lines are passed over. Throws
/// not_found and bad_input naming file and line.
void for_each_line(const std::filesystem::path& path,
                   const std::function<void(const base::Json& object, const std::string& where)>& line);

/// Calls `document` with each text of a source: a text file is one, each line of a JSONL file is one. Throws not_found
/// and bad_input naming file and line.
void for_each_document(const TextSource& source, const std::function<void(std::string_view text)>& document);

struct TokenizingProgress {
  int64_t bytes = 0, total_bytes = 0, documents = 0, tokens = 0;
};

/// Writes the tokens of all documents of the sources, in their order, as a TokenFile. After each document comes
/// `separator`, if there is one. Throws not_found and bad_input naming file and line; nothing is left half written.
void write_token_file(const std::filesystem::path& path, std::span<const TextSource> sources,
                      const text::Tokenizer& tokenizer, std::optional<text::TokenId> separator,
                      const std::function<void(const TokenizingProgress&)>& progress = {});

}  // namespace coterie::train
