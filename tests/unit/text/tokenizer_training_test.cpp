#include "text/tokenizer_training.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "text/tokenizer.h"

namespace coterie::text {
namespace {

using Kind = TokenizerRecipe::Kind;

// Words that repeat, accents, digits, spaces at line ends and runs of breaks.
const std::string kText =
    "the cat sat on the mat, the cat sat on the hat.\n\nThe caf\u00e9 opens at 10:45; the caf\u00e9 closes at 23:10. \n"
    "\tIndented lines \u2014 and dashes\u2026\r\nthe end\n";

std::string trained(const TokenizerRecipe& recipe, std::string_view text = kText) {
  return train_tokenizer(recipe, {&text, 1});
}

std::string message_of(const TokenizerRecipe& recipe, std::string_view text = kText) {
  try {
    trained(recipe, text);
  } catch (const base::Error& error) {
    return error.message();
  }
  return "no error";
}

TEST(TokenizerTraining, BytesAreTheirOwnIds) {
  const Tokenizer tokenizer = Tokenizer::from_json(trained({Kind::bytes, 0, 0, {"<|endoftext|>"}}), "bytes");
  EXPECT_EQ(tokenizer.vocabulary_size(), 257);
  const std::vector<TokenId> ids = tokenizer.encode(kText);
  ASSERT_EQ(ids.size(), kText.size());
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], static_cast<uint8_t>(kText[i])) << i;
  EXPECT_EQ(tokenizer.decode(ids), kText);
  EXPECT_EQ(tokenizer.id("<|endoftext|>"), 256);
  EXPECT_TRUE(tokenizer.is_special(256));
}

TEST(TokenizerTraining, CharactersAreInTheOrderOfTheirCodePoints) {
  const Tokenizer tokenizer = Tokenizer::from_json(trained({Kind::characters, 0, 0, {}}, "bca\u00e9 b"), "characters");
  EXPECT_EQ(tokenizer.vocabulary_size(), 5);
  EXPECT_EQ(tokenizer.encode(" abc\u00e9"), (std::vector<TokenId>{0, 1, 2, 3, 4}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ca b\u00e9")), "ca b\u00e9");
  try {
    tokenizer.encode("abcd");
    FAIL() << "d is not in the vocabulary";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.message(), "the character 'd' at byte 3 of the text is not in the vocabulary");
  }
}

TEST(TokenizerTraining, BpeLearnsWhatRepeatsAndGivesEveryTextBack) {
  const TokenizerRecipe recipe{Kind::bpe, 280, 1, {"<|endoftext|>", "<|user|>"}};
  const Tokenizer tokenizer = Tokenizer::from_json(trained(recipe), "bpe");
  EXPECT_EQ(tokenizer.vocabulary_size(), 280);
  EXPECT_EQ(tokenizer.id("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.id("<|user|>"), 1);
  EXPECT_EQ(tokenizer.encode(" the").size(), 1u);
  EXPECT_LT(tokenizer.encode(kText).size(), kText.size() * 2 / 3);
  for (const std::string& text : {kText, std::string("unseen \xF0\x9F\x98\x80 \u4E2D\u6587\n\n\n x"), std::string()})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.encode("<|user|>"), std::vector<TokenId>{1});
}

TEST(TokenizerTraining, IsTheSameEachTime) {
  const TokenizerRecipe recipe{Kind::bpe, 300, 1, {"<|endoftext|>"}};
  EXPECT_EQ(trained(recipe), trained(recipe));
}

TEST(TokenizerTraining, LongTextsAreCutWhereWordsEnd) {
  std::string text;
  while (text.size() < 200'000) text += "alpha beta\ngamma\n\n  delta\n";
  const Tokenizer tokenizer = Tokenizer::from_json(trained({Kind::bpe, 400, 2, {}}, text), "bpe");
  // All merges of these few words are found, and nothing that a cut inside a word would make.
  for (const std::string_view word : {"alpha", " beta", "gamma", " delta"})
    EXPECT_EQ(tokenizer.encode(word).size(), 1u) << word;
}

TEST(TokenizerTraining, RefusesWhatCannotBe) {
  EXPECT_EQ(message_of({Kind::bpe, 256, 2, {"<|endoftext|>"}}),
            "a vocabulary of 256 tokens: expected 257 (256 bytes and 1 special tokens) to 16777216");
  EXPECT_EQ(message_of({Kind::bpe, 300, 0, {}}), "min_frequency is 0, expected 1 or more");
  EXPECT_EQ(message_of({Kind::bpe, 300, 2, {"a", "a"}}), "the special token a is given twice");
  EXPECT_EQ(message_of({Kind::bytes, 0, 0, {""}}), "a special token is empty");
  EXPECT_EQ(message_of({Kind::characters, 0, 0, {}}, ""), "the texts are empty");
  EXPECT_EQ(message_of({Kind::bpe, 300, 2, {}}, "ab\xFFz"), "text 0 is not UTF-8: bad byte at offset 2");
}

TEST(TokenizerTraining, AFolderOfItLoads) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "trained-tokenizer";
  std::filesystem::create_directories(folder);
  const TokenizerRecipe recipe{Kind::bpe, 270, 2, {"<|endoftext|>"}};
  write_tokenizer(recipe, trained(recipe), folder);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  EXPECT_EQ(tokenizer.end_tokens(), std::vector<TokenId>{0});
  EXPECT_FALSE(tokenizer.bos().has_value());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(kText)), kText);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace coterie::text
