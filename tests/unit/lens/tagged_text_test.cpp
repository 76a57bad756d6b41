#include "lens/tagged_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "families/open.h"
#include "support/places.h"
#include "support/temp_folder.h"

namespace coterie::lens {
namespace {

const text::Tokenizer& tokenizer() {
  static const families::Model model = families::open_model(tests::source_folder() + "/../models/coterie-small.gguf");
  return *model.tokenizer;
}

/// Each token with the word it belongs to, or nothing.
std::vector<std::pair<std::string, std::string>> aligned(const Document& document) {
  const std::vector<int32_t> ids = tokenizer().encode(document.text, false), words = align(tokenizer(), ids, document);
  std::vector<std::pair<std::string, std::string>> result;
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string word;
    if (words[i] >= 0) {
      const Document::Word& w = document.words[static_cast<size_t>(words[i])];
      word = document.text.substr(static_cast<size_t>(w.begin), static_cast<size_t>(w.end - w.begin)) + "/" + w.tag;
    }
    result.emplace_back(tokenizer().decode({{ids[i]}}, false), word);
  }
  return result;
}

TEST(TaggedText, IsPutTogetherAsPeopleWriteIt) {
  const Document d = parse_tagged(
      "\"_'' I_PRP could_MD n't_RB go_VB ,_, \"_'' she_PRP said_VBD (_( twice_RB )_) ._.\nIt_PRP 's_POS $_$ 5_CD !_.\n"
      "a_b_LS x_NN\n",
      "t");
  EXPECT_EQ(d.text, "\"I couldn't go,\" she said (twice).\nIt's $5!\na_b x\n");
  EXPECT_EQ(d.words.size(), 20u);
  EXPECT_EQ(d.words[18].tag, "LS") << "the last underscore divides";
  for (const Document::Word& word : d.words) EXPECT_LT(word.begin, word.end);
}

TEST(TaggedText, ANoteWithoutATagIsRefusedWithItsLine) {
  try {
    parse_tagged("one_CD\ntwo three four_CD\n", "file.txt");
    FAIL();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
    EXPECT_NE(error.where().find("line 2"), std::string::npos) << error.where();
  }
}

TEST(TaggedText, AFewPiecesWithoutATagAreWordsWithNone) {
  std::string text = "D. C._NN is_VBZ";
  for (int i = 0; i < 10; ++i) text += " so_RB";
  const Document d = parse_tagged(text + "\n", "t");
  EXPECT_EQ(d.text.substr(0, 7), "D. C. i");
  EXPECT_EQ(d.words[0].tag, "");
  EXPECT_EQ(d.words[1].tag, "NN");
}

TEST(TaggedText, TokensBelongToTheWordOfTheirFirstLetter) {
  const Document d = parse_tagged("We_PRP could_MD n't_RB believe_VB it_PRP ,_, could_MD we_PRP ?_.\n", "t");
  std::string spelled;
  for (const auto& [token, word] : aligned(d)) {
    spelled += token;
    if (token == "\n") {
      EXPECT_EQ(word, "");
      continue;
    }
    ASSERT_NE(word, "") << token;
    // The word holds the token's first letter.
    const size_t first = token.find_first_not_of(" \n");
    EXPECT_NE(word.substr(0, word.find('/')).find(token[first]), std::string::npos) << token << " in " << word;
    EXPECT_TRUE(token.find(',') == std::string::npos || word == ",/,") << word;
    EXPECT_TRUE(token.find('?') == std::string::npos || word == "?/.") << word;
  }
  EXPECT_EQ(spelled, d.text);
}

// Letters of several tokens, and tokens of several letters; none is lost and none is another word's.
TEST(TaggedText, ManyScripts) {
  const Document d = parse_tagged(
      "Γειά_UH σου_PRP ,_, мир_NN !_. 日本語_NN も_RB です_VB 。_. हिन्दी_NN عربى_NN שלום_UH "
      "👩‍👩‍👧_SYM "
      "naïve_JJ "
      "ﬁn_NN\n",
      "t");
  const std::vector<int32_t> ids = tokenizer().encode(d.text, false), words = align(tokenizer(), ids, d);
  for (size_t i = 1; i < ids.size(); ++i) EXPECT_TRUE(words[i] < 0 || words[i] >= words[i - 1]) << "in order";
  std::vector<char> seen(d.words.size());
  for (const int32_t w : words)
    if (w >= 0) seen[static_cast<size_t>(w)] = 1;
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), std::ssize(d.words)) << "every word has a token";
}

TEST(TaggedText, AnotherTextIsRefused) {
  const Document d = parse_tagged("one_CD two_CD\n", "t");
  const std::vector<int32_t> ids = tokenizer().encode("one three\n", false);
  EXPECT_THROW(align(tokenizer(), ids, d), base::Error);
}

TEST(TaggedText, AFolderHasTheGenresOfItsList) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "a");
  std::ofstream(folder / "a" / "x.txt") << "one_CD\n";
  std::ofstream(folder / "a" / "y.txt") << "two_CD\n";
  std::ofstream(folder / "categories.txt") << "a/x.txt letters\n";
  const std::vector<Document> all = read_tagged(folder / "");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].name, "a/x.txt");
  EXPECT_EQ(all[0].genre, "letters");
  EXPECT_EQ(all[1].genre, "a");
  EXPECT_THROW(read_tagged(folder / "none"), base::Error);
}

}  // namespace
}  // namespace coterie::lens
