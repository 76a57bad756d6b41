#include "text/gguf_export.h"

#include <fmt/format.h>

#include <array>
#include <set>

#include "text/bridge_call.h"
#include "text/pre_tokenizers.h"
#include "text/tokenizer_state.h"

namespace coterie::text {

using base::Json;

namespace {

enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

constexpr std::array<std::string_view, 14> kTexts = {
    "Hello, world! It's 1999, isn't it? I'LL say: 3.14159 and 1,234,567 — 10%.",
    " leading and  double   spaces\tand\ttabs \n\n  and\r\nlines\n",
    "   \n \n\t\t  ",
    "def f(x):\n    return x**2  # ²\n\n\n\tif x!=y: pass;",
    "naïve café Ångström e\xcc\x81 ﬁ ½ №5 Ⅷ x²",
    "Привет, мир! Ελληνικά, עברית ‎العربية ١٢٣",
    "你好，世界！今天是2024年。日本語のテキストです。한국어 문장도 있습니다.",
    "हिन्दी में लिखा हुआ १२३ ภาษาไทย",
    "👩‍👩‍👧‍👦 😀😀 🇩🇪 ✈️",
    "http://example.org/a?b=c&d=%20e #tag @user_name snake_case camelCase",
    "\"quoted\" 'single' `code` (parens) [brackets] {braces} <tags/> $x^2$ |~|",
    "AAAA aaaa zzzzzzzzzz 0000000000 ---------- ......... ======",
    "'s 'S 't 'RE 've 'm 'll 'd ’s don’t",
    "",
};

bool said(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return false;
  if (found->is_boolean()) return found->get<bool>();
  return !(found->is_string() && found->get<std::string>().empty());
}

std::vector<std::string> merges_of(const Json& model) {
  std::vector<std::string> merges;
  for (const Json& merge : model.value("merges", Json::array()))
    merges.push_back(merge.is_array() ? merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>()
                                      : merge.get<std::string>());
  return merges;
}

// What the post-processor puts around a text, by example.
bool read_ends(const Tokenizer& tokenizer, GgufVocabulary& vocabulary) {
  std::vector<TokenId> plain = tokenizer.encode("a", false);
  const std::vector<TokenId> whole = tokenizer.encode("a", true);
  for (const bool bos : {false, true})
    for (const bool eos : {false, true}) {
      if ((bos && !vocabulary.bos) || (eos && !vocabulary.eos)) continue;
      std::vector<TokenId> expected = plain;
      if (bos) expected.insert(expected.begin(), *vocabulary.bos);
      if (eos) expected.push_back(*vocabulary.eos);
      if (whole != expected) continue;
      vocabulary.add_bos = bos, vocabulary.add_eos = eos;
      return true;
    }
  return false;
}

std::string first_difference(const Tokenizer& tokenizer, const Tokenizer& made) {
  std::vector<std::string> texts(kTexts.begin(), kTexts.end());
  std::string special;
  for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id)
    if (tokenizer.is_special(id) && special.size() < 1000) special += " x " + tokenizer.token(id).value_or("");
  texts.push_back(special);
  for (const std::string& text : texts)
    for (const bool add_special : {false, true}) {
      const std::vector<TokenId> ids = tokenizer.encode(text, add_special);
      if (made.encode(text, add_special) != ids) return fmt::format("\"{}\" becomes other tokens", text);
      if (made.decode(ids) != tokenizer.decode(ids)) return fmt::format("\"{}\" does not come back the same", text);
    }
  return {};
}

}  // namespace

std::span<const std::string_view> telling_texts() { return kTexts; }

std::string tokenizer_json(const Tokenizer& tokenizer) {
  const TokenizerState& state = TokenizerState::of(tokenizer);
  BridgeBytes json, error;
  check_bridge(coterie_tokenizer_json(state.bridge.get(), json.out(), error.out()), state.where, error);
  return std::string(json.view());
}

GgufExport to_gguf(const Tokenizer& tokenizer, const Json& file, int64_t rows) {
  const Json& model = file.at("model");
  if (model.value("type", "BPE") != "BPE") return {{}, "it is not BPE but " + model.value("type", "")};
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "unk_token"})
    if (said(model, key)) return {{}, fmt::format("its BPE has a {}", key)};
  const auto name = pre_tokenizer_name(file.value("pre_tokenizer", Json()), file.value("normalizer", Json()),
                                       said(model, "ignore_merges"));
  if (!name) return {{}, "GGUF has no name for its pre-tokenizer"};
  if (tokenizer.vocabulary_size() > rows)
    return {{}, fmt::format("it has {} tokens, the model {}", tokenizer.vocabulary_size(), rows)};

  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2", vocabulary.pre = *name;
  vocabulary.merges = merges_of(model);
  if (vocabulary.merges.empty()) return {{}, "it has no merges"};
  std::set<TokenId> added;
  for (const Json& token : file.value("added_tokens", Json::array())) added.insert(token.at("id").get<TokenId>());
  for (TokenId id = 0; id < rows; ++id) {
    const std::optional<std::string> token = tokenizer.token(id);
    vocabulary.tokens.push_back(token.value_or(fmt::format("[PAD{}]", id)));
    vocabulary.token_type.push_back(!token                     ? kUnused
                                    : tokenizer.is_special(id) ? kControl
                                    : added.contains(id)       ? kUserDefined
                                                               : kNormal);
  }
  vocabulary.bos = tokenizer.bos();
  const std::vector<TokenId>& ends = tokenizer.end_tokens();
  if (!ends.empty()) vocabulary.eos = ends[0];
  if (ends.size() > 1) vocabulary.eot = ends[1];
  if (!read_ends(tokenizer, vocabulary)) return {{}, "it puts more around a text than BOS and EOS"};

  const std::string difference = first_difference(tokenizer, Tokenizer::from_gguf(vocabulary, "the vocabulary made"));
  if (!difference.empty()) return {{}, "with GGUF's keys " + difference};
  return {std::move(vocabulary), {}};
}

}  // namespace coterie::text
