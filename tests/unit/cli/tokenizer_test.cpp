// coterie tokenizer, as a user or a script meets it.
#include <gtest/gtest.h>

#include <fstream>

#include "support/temp_folder.h"
#include "text/tokenizer.h"
#include "unit/cli/process.h"

namespace coterie::cli {
namespace {

struct TokenizerCommand : testing::Test {
  void SetUp() override { std::ofstream(folder / "a.txt") << "to be or not to be\nthat is the question\n"; }
  test::Outcome train(std::vector<std::string> more) {
    std::vector<std::string> words = {"tokenizer", "train", (folder / "a.txt").string(), "-o", out()};
    words.insert(words.end(), more.begin(), more.end());
    return test::coterie(words);
  }
  std::string out() const { return (folder / "made").string(); }
  TempFolder folder;
};

TEST_F(TokenizerCommand, Train) {
  const test::Outcome outcome = train({"--vocabulary", "262", "--min-frequency", "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("262 tokens; 40 bytes of text became"), std::string::npos) << outcome.err;
  const text::Tokenizer tokenizer = text::Tokenizer::load(out());
  EXPECT_EQ(tokenizer.vocabulary_size(), 262);
  EXPECT_EQ(tokenizer.end_tokens(), std::vector<text::TokenId>{0});
}

TEST_F(TokenizerCommand, KeepsWhatIsThere) {
  ASSERT_EQ(train({"--kind", "bytes"}).code, 0);
  const test::Outcome again = train({"--kind", "characters"});
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("already exists"), std::string::npos) << again.err;
  EXPECT_EQ(text::Tokenizer::load(out()).vocabulary_size(), 257);
  ASSERT_EQ(train({"--kind", "characters", "--special", "", "--force"}).code, 0);
  EXPECT_EQ(text::Tokenizer::load(out()).vocabulary_size(), 14);
}

TEST_F(TokenizerCommand, RefusesWhatCannotBe) {
  EXPECT_EQ(train({"--vocabulary", "200"}).code, 2);
  EXPECT_EQ(train({"--kind", "words"}).code, 2);
  EXPECT_EQ(test::coterie({"tokenizer", "train", (folder / "absent.txt").string(), "-o", out()}).code, 2);
  EXPECT_FALSE(std::filesystem::exists(out()));
  // A folder that cannot be made is the system's refusal, not a bug; a text that is not UTF-8 is named.
  const std::string text = folder.write("a text.txt", "abc").string();
  EXPECT_EQ(test::coterie({"tokenizer", "train", text, "-o", text + "/sub"}).code, 1);
  EXPECT_EQ(test::coterie({"tokenizer", "train", text, "-o", text}).code, 2);
  const std::string bad = folder.write("bad.txt", "caf\xe9\n").string();
  const test::Outcome refused = test::coterie({"tokenizer", "train", bad, "-o", out()});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("bad.txt: the text is not UTF-8: bad byte 0xe9 at offset 3"), std::string::npos)
      << refused.err;
  EXPECT_FALSE(std::filesystem::exists(out()));
}

}  // namespace
}  // namespace coterie::cli
