#include <gtest/gtest.h>

#include <filesystem>

#include "support/places.h"
#include "text/tokenizer.h"

namespace coterie::text {
namespace {

bool is_utf8(std::string_view text) {
  try {
    (void)base::Json(std::string(text)).dump();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

/// Byte-level tokens for every way to cut the bytes of `text` into pieces are too many; these are the two extremes and
/// all pairs: the 256 bytes, and every string of two or three of the bytes in the texts below.
Tokenizer byte_tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::load(std::filesystem::path(tests::source_folder()) / "unit/text/data/tiny_bpe");
  return tokenizer;
}

/// SentencePiece-style: a few words, and bytes for the rest.
Tokenizer spm_tokenizer() {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>"};
  v.token_type = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) v.tokens.push_back(fmt::format("<0x{:02X}>", byte));
  v.token_type.resize(v.tokens.size(), 6);
  for (const char* piece : {"▁", "▁a", "a", "b", "▁b"}) v.tokens.push_back(piece);
  v.token_type.resize(v.tokens.size(), 1);
  v.scores.resize(v.tokens.size(), -1.0f);
  return Tokenizer::from_gguf(v, "test");
}

/// The ids of single bytes, whatever the merges would make of them.
std::vector<TokenId> byte_ids(std::string_view text) {
  const Tokenizer tokenizer = spm_tokenizer();
  std::vector<TokenId> ids;
  for (const char c : text) ids.push_back(*tokenizer.id(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c))));
  return ids;
}

std::string stream(StreamDecoder& decoder, std::span<const TokenId> ids) {
  std::string all;
  for (const TokenId id : ids) {
    const std::string text = decoder.push(id);
    EXPECT_TRUE(is_utf8(text)) << "half a character in " << testing::PrintToString(text);
    EXPECT_EQ(text.find("\xEF\xBF\xBD"), std::string::npos) << "a character was printed before it was whole";
    all += text;
  }
  return all;
}

TEST(StreamDecoder, GivesTheTextOfDecode) {
  const Tokenizer tokenizer = byte_tokenizer();
  const base::Json golden =
      base::read_json(std::filesystem::path(tests::source_folder()) / "unit/text/data/tiny_bpe/golden.json");
  for (const base::Json& line : golden["lines"]) {
    const std::string text = line;
    const std::vector<TokenId> ids = tokenizer.encode(text);
    StreamDecoder decoder(tokenizer, false);
    const std::string streamed = stream(decoder, ids) + decoder.finish();
    EXPECT_EQ(streamed, tokenizer.decode(ids, false));
  }
}

TEST(StreamDecoder, HoldsBackEveryByteOfACharacter) {
  const std::string emoji = "👩‍👩‍👧‍👦é€😀";
  const std::vector<TokenId> ids = byte_ids(emoji);
  // Cut the stream after every byte: what was printed is a whole prefix, and finish() shows the rest as U+FFFD.
  for (size_t cut = 0; cut <= ids.size(); ++cut) {
    StreamDecoder decoder(spm_tokenizer());
    const std::string printed = stream(decoder, std::span(ids).first(cut));
    EXPECT_TRUE(emoji.starts_with(printed)) << cut;
    EXPECT_LT(cut - printed.size(), 4u) << "at most three bytes wait";
    const std::string rest = decoder.finish();
    EXPECT_TRUE(is_utf8(rest));
    EXPECT_EQ(rest.empty(), printed.size() == cut);
    EXPECT_TRUE(decoder.finish().empty());
  }
  StreamDecoder whole(spm_tokenizer());
  EXPECT_EQ(stream(whole, ids) + whole.finish(), emoji);
}

TEST(StreamDecoder, BytesThatAreNoCharacterBecomeReplacements) {
  StreamDecoder decoder(spm_tokenizer());
  std::vector<TokenId> ids = byte_ids("\xFF\xE2\x82");
  ids.push_back(*spm_tokenizer().id("a"));
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  text += decoder.finish();
  EXPECT_TRUE(is_utf8(text));
  EXPECT_TRUE(text.ends_with("a")) << text;
  EXPECT_NE(text.find("\xEF\xBF\xBD"), std::string::npos);

  // A long run of garbage is printed as it goes, not kept for ever.
  StreamDecoder long_decoder(spm_tokenizer());
  const TokenId bad = byte_ids("\xFF")[0];
  std::string garbage;
  for (int i = 0; i < 500; ++i) garbage += long_decoder.push(bad);
  EXPECT_GT(garbage.size(), 3u * 400);
  EXPECT_TRUE(is_utf8(garbage));
}

TEST(StreamDecoder, ABadByteAfterAPrintedCharacterLeavesItAlone) {
  StreamDecoder decoder(spm_tokenizer());
  std::string text;
  for (const TokenId id : byte_ids("é\xE2")) text += decoder.push(id);
  text += decoder.push(*spm_tokenizer().id("b"));
  text += decoder.finish();
  EXPECT_EQ(text,
            "é\xEF\xBF\xBD"
            "b");
}

TEST(StreamDecoder, SpacesBetweenWordsStayAndTheFirstGoes) {
  const Tokenizer tokenizer = spm_tokenizer();
  const TokenId a = *tokenizer.id("▁a"), b = *tokenizer.id("▁b");
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(a), "a");
  EXPECT_EQ(decoder.push(b), " b");
  EXPECT_EQ(decoder.push(a), " a");

  StreamDecoder after_prompt(tokenizer);
  const std::vector<TokenId> prompt = {1, a, b};
  after_prompt.prime(prompt);
  EXPECT_EQ(after_prompt.push(a), " a") << "the prompt stands before it";

  StreamDecoder lone_space(tokenizer);
  EXPECT_EQ(lone_space.push(*tokenizer.id("▁")), "");
  EXPECT_EQ(lone_space.push(a), " a") << "only the first space of a text is stripped";
}

TEST(StreamDecoder, SpecialTokensAndIdsWithoutTokensPrintNothing) {
  const Tokenizer tokenizer = spm_tokenizer();
  const TokenId a = *tokenizer.id("▁a");
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(a), "a");
  EXPECT_EQ(decoder.push(2), "");
  EXPECT_EQ(decoder.push(99999), "");
  EXPECT_EQ(decoder.push(a), " a");
  StreamDecoder loud(tokenizer, false);
  EXPECT_EQ(loud.push(a), "a");
  EXPECT_EQ(loud.push(2), "</s>");
  EXPECT_THROW(decoder.push(-1), base::Error);
  EXPECT_EQ(decoder.push(a), " a") << "an error leaves the stream as it was";
}

}  // namespace
}  // namespace coterie::text
