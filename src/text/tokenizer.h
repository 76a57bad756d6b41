#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace coterie::text {

using TokenId = int32_t;
struct TokenizerState;

/// What a GGUF file says about its tokenizer (tokenizer.ggml.*), as plain data: text does not read files of weights.
struct GgufVocabulary {
  std::string model;  // "gpt2" (byte-level BPE), "llama" (SentencePiece with scores), ...
  std::string pre;    // name of the pre-tokenizer: "llama-bpe", "qwen2", "smollm", "default", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> token_type;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;
  std::optional<TokenId> bos, eos, eot, unknown, padding;
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;
};

/// Strings to token ids and back, by the Hugging Face `tokenizers` library behind a C ABI (src/text/bridge).
/// Immutable and safe to use from several threads.
class Tokenizer {
 public:
  /// From a folder with tokenizer.json (and tokenizer_config.json, special_tokens_map.json, generation_config.json
  /// where present), or from a tokenizer.json itself.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_json(std::string_view tokenizer_json, std::string_view where);
  /// Builds the same thing from a GGUF's vocabulary. Refuses an unknown model or pre-tokenizer by name.
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary, std::string_view where);

  /// `add_special`: what the post-processor adds around a text (a BOS, where the model has one). Special tokens
  /// written out in the text are recognised in either case, as Hugging Face does.
  std::vector<TokenId> encode(std::string_view text, bool add_special = true) const;
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  int64_t vocabulary_size() const;  // added tokens included
  /// The token as stored in the vocabulary ("Ġthe", "▁the", "<0x0A>"), or nothing.
  std::optional<std::string> token(TokenId id) const;
  std::optional<TokenId> id(std::string_view token) const;
  bool is_special(TokenId id) const;

  std::optional<TokenId> bos() const;
  /// Tokens that end a generation: eos, eot, and generation_config's list.
  const std::vector<TokenId>& end_tokens() const;

 private:
  friend struct TokenizerState;
  explicit Tokenizer(std::shared_ptr<const TokenizerState> state) : state_(std::move(state)) {}
  std::shared_ptr<const TokenizerState> state_;
};

/// Turns a stream of ids into text that is always whole UTF-8: what a token leaves unfinished is held back until a
/// later one completes it. One for each sequence.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = true);
  /// Ids of the prompt: they shape what follows (a leading space) but print nothing.
  void prime(std::span<const TokenId> ids);
  /// The text that this id completes; may be empty.
  std::string push(TokenId id);
  /// What is still held back at the end, with U+FFFD for bytes that never became a character.
  std::string finish();

 private:
  bool is_silent(TokenId id) const;
  std::string pending() const;

  Tokenizer tokenizer_;
  bool skip_special_;
  std::vector<TokenId> ids_;
  size_t prefix_ = 0, read_ = 0;  // ids_[prefix_, read_) have been printed and give context
  size_t printed_ = 0;            // bytes of the text of ids_[read_, …) that have been printed
};

struct Message {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

/// A chat template (Jinja), rendered as Hugging Face renders it (minijinja with Python's methods, raise_exception,
/// strftime_now, tojson, trim_blocks and lstrip_blocks). As there, keys of a message that are null are dropped,
/// reasoning is given under both of its usual names, and `tools` and `documents` are none unless `extra` has them.
/// Immutable and safe to use from several threads.
class ChatTemplate {
 public:
  /// Throws bad_input with the line when the template does not parse. An empty `bos` or `eos` is left undefined, as
  /// transformers leaves a token that a model does not have.
  ChatTemplate(std::string source, std::string bos, std::string eos, std::string where);
  /// From chat_template.jinja / chat_template.json / tokenizer_config.json of a model's folder, in this order; nothing
  /// when it has none. A folder may have several templates: "default" is used, and "tool_use" when tools are given.
  static std::optional<ChatTemplate> load(const std::filesystem::path& folder);

  /// `extra`: an object of further variables (tools, enable_thinking, …). Throws bad_input with the template's own
  /// words when it refuses the messages.
  std::string render(std::span<const Message> messages, bool add_generation_prompt,
                     const base::Json& extra = base::Json::object()) const;
  /// Messages with any fields (tool calls, content parts): a JSON array.
  std::string render(const base::Json& messages, bool add_generation_prompt, const base::Json& extra) const;
  /// The same from JSON text. base::Json sorts the keys of its objects and a template may print an object (tools, as a
  /// rule), so where the order of keys should stay as the user wrote it, this is the one to call.
  std::string render_json(std::string_view messages, bool add_generation_prompt, std::string_view extra = "{}") const;

  /// The text of the (default) template.
  const std::string& source() const;

 private:
  struct State;
  ChatTemplate() = default;
  std::shared_ptr<const State> state_;
};

}  // namespace coterie::text
