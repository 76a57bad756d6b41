#include <gtest/gtest.h>

#include <filesystem>

#include "support/places.h"
#include "text/tokenizer.h"

namespace coterie::text {
namespace {

/// A SentencePiece BPE vocabulary in the layout of Llama 2: <unk>, <s>, </s>, 256 bytes, pieces with falling scores.
GgufVocabulary tiny_spm() {
  GgufVocabulary v;
  v.model = "llama";
  const auto add = [&](const std::string& token, float score, int32_t type) {
    v.tokens.push_back(token);
    v.scores.push_back(score);
    v.token_type.push_back(type);
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 0, 6);
  float score = -1;
  for (const char* piece : {"he", "ll", "hell", "hello", "▁w", "or", "▁wor", "ld", "▁world", "▁hello", "▁", "h", "e",
                            "l", "o", "w", "r", "d", "é"})
    add(piece, score--, 1);
  add("<tool>", 0, 4);
  return v;
}

GgufVocabulary tiny_gpt2() {
  GgufVocabulary v;
  v.model = "gpt2";
  v.pre = "gpt-2";
  v.tokens = {"a", "b", "c", "Ġ", "ab", "Ġab", "abc", "<|end|>", "1", "2", "12"};
  v.token_type = {1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1};
  v.merges = {"a b", "Ġ ab", "ab c", "1 2"};
  v.eos = 7;
  return v;
}

std::vector<std::string> pieces(const Tokenizer& tokenizer, std::string_view text, bool special = false) {
  std::vector<std::string> out;
  for (const TokenId id : tokenizer.encode(text, special)) out.push_back(tokenizer.token(id).value_or("?"));
  return out;
}

using Pieces = std::vector<std::string>;

std::string refusal(const GgufVocabulary& vocabulary, base::ErrorKind kind = base::ErrorKind::bad_input) {
  try {
    Tokenizer::from_gguf(vocabulary, "model.gguf");
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_EQ(error.where(), "model.gguf");
    return error.message() + " " + error.hint();
  }
  ADD_FAILURE() << "not refused";
  return {};
}

TEST(SentencePiece, MergesByScoreAndFallsBackToBytes) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(tiny_spm(), "test");
  EXPECT_EQ(pieces(tokenizer, "hello world"), (Pieces{"▁hello", "▁world"}));
  EXPECT_EQ(pieces(tokenizer, "hello world", true), (Pieces{"<s>", "▁hello", "▁world"}));
  EXPECT_EQ(pieces(tokenizer, "hé"), (Pieces{"▁", "h", "é"}));
  EXPECT_EQ(pieces(tokenizer, "h😀"), (Pieces{"▁", "h", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"}));
  EXPECT_EQ(pieces(tokenizer, "  h"), (Pieces{"▁", "▁", "▁", "h"}));
  EXPECT_EQ(pieces(tokenizer, "h\n"), (Pieces{"▁", "h", "<0x0A>"}));
  EXPECT_EQ(pieces(tokenizer, "hello<tool>hello</s>"), (Pieces{"▁hello", "<tool>", "▁hello", "</s>"}));
}

TEST(SentencePiece, DecodesToWhatWasEncoded) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(tiny_spm(), "test");
  for (const std::string text : {"hello world", "  hello", "h😀é\n\tx", "日本語 hello", ""})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(SentencePiece, DefaultsAndSwitches) {
  GgufVocabulary v = tiny_spm();
  const Tokenizer usual = Tokenizer::from_gguf(v, "test");
  EXPECT_EQ(usual.bos(), 1);
  EXPECT_EQ(usual.end_tokens(), std::vector<TokenId>{2});
  EXPECT_TRUE(usual.is_special(1));
  EXPECT_FALSE(usual.is_special(*usual.id("<tool>")));
  EXPECT_EQ(usual.vocabulary_size(), static_cast<int64_t>(v.tokens.size()));

  v.add_space_prefix = false;
  v.add_bos = false;
  v.add_eos = true;
  const Tokenizer other = Tokenizer::from_gguf(v, "test");
  EXPECT_EQ(pieces(other, "hello world", true), (Pieces{"hello", "▁world", "</s>"}));
  EXPECT_EQ(other.decode(other.encode(" hello", false)), " hello");
}

TEST(SentencePiece, TiesGoByIdOrByLength) {
  // "xyx" is (x, yx) and (xy, x); in "xyxyx"... the pair that ranks first takes the middle.
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "▁", "x", "y", "xy", "yx", "xyx"};
  v.scores = {0, -9, -9, -9, -5, -5, -6};
  v.token_type = {2, 1, 1, 1, 1, 1, 1};
  v.add_bos = false;
  v.add_space_prefix = false;
  EXPECT_EQ(pieces(Tokenizer::from_gguf(v, "test"), "xyx"), Pieces{"xyx"});
  v.add_space_prefix = true;
  EXPECT_EQ(pieces(Tokenizer::from_gguf(v, "test"), "xyx"), (Pieces{"▁", "xyx"}));
}

TEST(SentencePiece, RunsOfSpacesOfGemma) {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "▁", "x", "  ", "    "};  // as converters write the user-defined runs
  v.scores = {0, -9, -9, 0, 0};
  v.token_type = {2, 1, 1, 4, 4};
  v.add_bos = false;
  v.add_space_prefix = false;
  const Tokenizer tokenizer = Tokenizer::from_gguf(v, "test");
  EXPECT_EQ(tokenizer.encode("x    x  x x"), (std::vector<TokenId>{2, 4, 2, 3, 2, 1, 2}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("x    x  x x")), "x    x  x x");
}

TEST(ByteLevel, MergesAndSpecialTokens) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(tiny_gpt2(), "test");
  EXPECT_EQ(pieces(tokenizer, "ab abc<|end|>12"), (Pieces{"ab", "Ġab", "c", "<|end|>", "12"}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab abc<|end|>")), "ab abc");
  EXPECT_EQ(tokenizer.end_tokens(), std::vector<TokenId>{7});
  EXPECT_EQ(tokenizer.bos(), std::nullopt);
}

TEST(ByteLevel, PreTokenizersDiffer) {
  GgufVocabulary v = tiny_gpt2();
  v.pre = "smollm";  // digits one by one
  EXPECT_EQ(pieces(Tokenizer::from_gguf(v, "test"), "12"), (Pieces{"1", "2"}));
  v.pre = "llama-bpe";
  v.bos = 7;
  const Tokenizer llama3 = Tokenizer::from_gguf(v, "test");
  EXPECT_EQ(pieces(llama3, "12", true), (Pieces{"<|end|>", "12"})) << "adds a BOS by itself";
  v.tokens.push_back("cab");  // no merge makes it; a llama-bpe word that is a token is that token
  v.token_type.push_back(1);
  EXPECT_EQ(pieces(Tokenizer::from_gguf(v, "test"), "cab"), Pieces{"cab"});
  v.pre = "gpt-2";
  EXPECT_EQ(pieces(Tokenizer::from_gguf(v, "test"), "cab"), (Pieces{"c", "ab"}));
}

TEST(ByteLevel, EveryKnownPreTokenizerBuildsAndKeepsTheText) {
  const std::filesystem::path folder = std::filesystem::path(tests::source_folder()) / "unit/text/data";
  const base::Json json = base::read_json(folder / "tiny_bpe/tokenizer.json");
  GgufVocabulary v;
  v.model = "gpt2";
  v.tokens.resize(json["model"]["vocab"].size());
  for (const auto& [token, id] : json["model"]["vocab"].items()) v.tokens[id.get<size_t>()] = token;
  for (const base::Json& merge : json["model"]["merges"])
    v.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  v.bos = 0;
  v.pre = "?";
  const std::string message = refusal(v, base::ErrorKind::unsupported);
  std::string names = message.substr(message.find("known are: ") + 11);
  const base::Json lines = base::read_json(folder / "tiny_bpe/golden.json")["lines"];
  int count = 0;
  for (size_t at = 0; at < names.size();) {
    const size_t end = std::min(names.find(", ", at), names.size());
    v.pre = names.substr(at, end - at);
    at = end + 2;
    ++count;
    const Tokenizer tokenizer = Tokenizer::from_gguf(v, v.pre);
    for (size_t i = 0; i < lines.size(); i += 7) {
      const std::string line = lines[i];
      // NFC changes the text of decomposed letters, as it does for the published tokenizers of these names.
      const std::string once = tokenizer.decode(tokenizer.encode(line, false), false);
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(once, false), false), once) << v.pre << ": " << line;
    }
  }
  EXPECT_GT(count, 40);
}

TEST(GgufVocabulary, EndTokensByText) {
  GgufVocabulary v = tiny_gpt2();
  v.tokens.insert(v.tokens.end(), {"<|im_end|>", "<|eot_id|>", "<|endoftext|>"});
  v.token_type.insert(v.token_type.end(), {3, 1, 3});
  v.eot = 11;
  EXPECT_EQ(Tokenizer::from_gguf(v, "test").end_tokens(), (std::vector<TokenId>{7, 11, 13}))
      << "eos, eot, and the control tokens that are known by their text; <|eot_id|> is no control token here";
}

TEST(GgufVocabulary, GptOssEndsItsAnswerAndNotItsThoughts) {
  GgufVocabulary v = tiny_gpt2();
  v.tokens[7] = "<|return|>";
  v.tokens.insert(v.tokens.end(), {"<|call|>", "<|end|>"});
  v.token_type.insert(v.token_type.end(), {3, 3});
  EXPECT_EQ(Tokenizer::from_gguf(v, "test").end_tokens(), (std::vector<TokenId>{7, 11}));
}

TEST(GgufVocabulary, RefusesWhatItCannotHonour) {
  using base::ErrorKind;
  const auto changed = [](const auto& change, GgufVocabulary v = tiny_gpt2()) {
    change(v);
    return v;
  };
  EXPECT_NE(refusal(changed([](auto& v) { v.pre = "klingon"; }), ErrorKind::unsupported).find("klingon"),
            std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.model = "t5"; }), ErrorKind::unsupported).find("t5"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.model = ""; }), ErrorKind::unsupported).find("gpt2"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.tokens.clear(); })).find("tokens"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.merges.clear(); })).find("merges"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.merges[1] = "nospace"; })).find("merge 1"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.merges[1] = "a zz"; })).find("zz"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.tokens[1] = "a"; })).find("twice"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.tokens[1] = "\xff"; })).find("UTF-8"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.token_type.pop_back(); })).find("token_type"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.eos = 99; })).find("eos_token_id"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.bos = -1; })).find("bos_token_id"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.add_bos = true; })).find("bos"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.scores.clear(); }, tiny_spm())).find("scores"), std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.scores[7] = std::nanf(""); }, tiny_spm())).find("scores[7]"),
            std::string::npos);
  EXPECT_NE(refusal(changed([](auto& v) { v.remove_extra_whitespaces = true; }, tiny_spm()), ErrorKind::unsupported)
                .find("remove_extra_whitespaces"),
            std::string::npos);
}

}  // namespace
}  // namespace coterie::text
