#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "text/tokenizer.h"
#include "text/tokenizer_training.h"

// Small vocabularies of each kind that a constraint has to understand.
namespace coterie::text {

/// The first of `special` ends a text; without one nothing does.
inline Tokenizer trained(TokenizerRecipe::Kind kind, std::vector<std::string> special, int64_t size = 0) {
  const std::string text = R"({"name": "anna", "age": 41, "tags": ["a", "b"], "true": false, "null": null} the cat sat)"
                           "\n\t<tool_call>\n</tool_call> <think> kind code 0123456789 -.eE [x] =>\\/_ABC:;'caf\u00e9";
  const std::string_view view = text;
  const TokenizerRecipe recipe{kind, size, 1, std::move(special)};
  const std::string json = train_tokenizer(recipe, {&view, 1});
  if (recipe.special.empty()) return Tokenizer::from_json(json, "trained");
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("coterie_vocabulary_{}", ::getpid());
  write_tokenizer(recipe, json, folder);
  Tokenizer tokenizer = Tokenizer::load(folder);
  std::filesystem::remove_all(folder);
  return tokenizer;
}

/// SentencePiece with byte fallback: three special tokens, 256 bytes, some pieces.
inline Tokenizer sentencepiece() {
  GgufVocabulary v;
  v.model = "llama";
  const auto add = [&](const std::string& token, float score, int32_t type) {
    v.tokens.push_back(token), v.scores.push_back(score), v.token_type.push_back(type);
  };
  add("<unk>", 0, 2), add("<s>", 0, 3), add("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 0, 6);
  float score = -1;
  for (const char* piece : {"na", "me", "name", "▁\"", "\":", "▁[", "▁{", "▁", "n",  "a",           "m",
                            "e",  "\"", ":",    "{",   "}",   "é",  "1",  "2", "12", "[TOOL_CALLS]"})
    add(piece, score--, std::string_view(piece) == "[TOOL_CALLS]" ? 3 : 1);
  v.eos = 2;
  return Tokenizer::from_gguf(v, "sentencepiece");
}

inline Tokenizer byte_level_bpe(const std::vector<std::string>& special) {
  return trained(TokenizerRecipe::Kind::bpe, special, 330);
}

inline Tokenizer bytes(const std::vector<std::string>& special) {
  return trained(TokenizerRecipe::Kind::bytes, special);
}

}  // namespace coterie::text
