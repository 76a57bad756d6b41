#include "text/tokenizer_training.h"

#include <algorithm>
#include <set>

#include "base/atomic_file.h"
#include "base/json.h"
#include "text/bridge_call.h"

namespace coterie::text {

using base::ErrorKind;
using base::fail;
using base::Json;

namespace {

constexpr std::string_view kWhere = "tokenizer training";
constexpr int64_t kBytes = 256;
// BPE keeps ids in 32 bits and its vocabulary in memory; the largest published ones have 262,144 tokens.
constexpr int64_t kMostTokens = 1 << 24;

std::string_view name(TokenizerRecipe::Kind kind) {
  switch (kind) {
    case TokenizerRecipe::Kind::bytes: return "bytes";
    case TokenizerRecipe::Kind::characters: return "characters";
    case TokenizerRecipe::Kind::bpe: return "bpe";
  }
  return "";
}

// Where a character that is cut in two by the ends of `text` would make a false piece, none is cut: a piece ends after
// a line break between two characters that are not spaces, where GPT-2's words end too.
std::vector<std::string_view> pieces(std::string_view text) {
  constexpr size_t kPiece = 64 << 10;
  const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  std::vector<std::string_view> result;
  while (text.size() > kPiece) {
    size_t end = kPiece;
    while (end < text.size() && (text[end - 1] != '\n' || space(text[end - 2]) || space(text[end]))) ++end;
    result.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  if (!text.empty()) result.push_back(text);
  return result;
}

void check(const TokenizerRecipe& recipe) {
  std::set<std::string_view> seen;
  for (const std::string& token : recipe.special) {
    if (token.empty()) fail(ErrorKind::bad_input, kWhere, "a special token is empty");
    if (!seen.insert(token).second) fail(ErrorKind::bad_input, kWhere, "the special token {} is given twice", token);
  }
  if (recipe.kind != TokenizerRecipe::Kind::bpe) return;
  const int64_t least = kBytes + static_cast<int64_t>(recipe.special.size());
  if (recipe.vocabulary < least || recipe.vocabulary > kMostTokens)
    fail(ErrorKind::bad_input, kWhere, "a vocabulary of {} tokens: expected {} (256 bytes and {} special tokens) to {}",
         recipe.vocabulary, least, recipe.special.size(), kMostTokens);
  if (recipe.min_frequency < 1)
    fail(ErrorKind::bad_input, kWhere, "min_frequency is {}, expected 1 or more", recipe.min_frequency);
}

}  // namespace

std::string train_tokenizer(const TokenizerRecipe& recipe, std::span<const std::string_view> texts) {
  check(recipe);
  std::vector<CoterieSlice> slices;
  for (const std::string_view text : texts)
    for (const std::string_view piece : pieces(text)) slices.push_back(slice(piece));
  if (slices.empty() && recipe.kind != TokenizerRecipe::Kind::bytes)
    fail(ErrorKind::bad_input, kWhere, "the texts are empty");
  const std::string wanted = Json{
      {"kind", name(recipe.kind)},
      {"vocabulary", recipe.vocabulary},
      {"min_frequency", recipe.min_frequency},
      {"special",
       recipe.special}}.dump();
  BridgeBytes json, error;
  check_bridge(coterie_tokenizer_train(slice(wanted), slices.data(), slices.size(), json.out(), error.out()), kWhere,
               error);
  return std::string(json.view());
}

void write_tokenizer(const TokenizerRecipe& recipe, std::string_view tokenizer_json,
                     const std::filesystem::path& folder) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  if (!recipe.special.empty()) config["eos_token"] = recipe.special.front();
  base::AtomicFile file(folder / "tokenizer.json");
  file.write(tokenizer_json);
  base::AtomicFile config_file(folder / "tokenizer_config.json");
  config_file.write(config.dump(2) + "\n");
  config_file.commit();
  file.commit();  // last: where it is, the other is too
}

}  // namespace coterie::text
