#include "text/tokenizer.h"
#include "support/places.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace coterie::text {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(tests::source_folder()) / "unit/text/data/tiny_bpe";

base::Error error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const base::Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return base::Error(base::ErrorKind::internal, "", "");
}

struct TempFolder {
  std::filesystem::path path;
  TempFolder() {
    path = std::filesystem::temp_directory_path() / ("coterie_text_" + std::to_string(::getpid()));
    std::filesystem::create_directories(path);
  }
  ~TempFolder() { std::filesystem::remove_all(path); }
  void write(const char* name, const std::string& text) const { std::ofstream(path / name) << text; }
};

TEST(Tokenizer, GivesTheIdsOfHuggingFace) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  const base::Json golden = base::read_json(kFolder / "golden.json");
  ASSERT_GT(golden["lines"].size(), 100u);
  for (size_t i = 0; i < golden["lines"].size(); ++i) {
    const std::string line = golden["lines"][i];
    EXPECT_EQ(tokenizer.encode(line), golden["ids"][i].get<std::vector<TokenId>>()) << line;
    const std::vector<TokenId> plain = tokenizer.encode(line, false);
    EXPECT_EQ(plain, golden["plain"][i].get<std::vector<TokenId>>()) << line;
    EXPECT_EQ(tokenizer.decode(plain, false), golden["text"][i].get<std::string>()) << line;
  }
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  EXPECT_EQ(tokenizer.vocabulary_size(), 701);
  EXPECT_EQ(tokenizer.id("<|begin|>"), 0);
  EXPECT_EQ(tokenizer.id("<tool>"), 700);
  EXPECT_EQ(tokenizer.id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token(2), "<|turn|>");
  EXPECT_EQ(tokenizer.token(701), std::nullopt);
  EXPECT_EQ(tokenizer.token(-1), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(700)) << "added, but not special";
  EXPECT_FALSE(tokenizer.is_special(300));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.bos(), 0);
  EXPECT_EQ(tokenizer.end_tokens(), (std::vector<TokenId>{1, 2}))
      << "tokenizer_config.json, then generation_config.json";
}

TEST(Tokenizer, SpecialTokensAreSkippedOnRequest) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  const std::vector<TokenId> ids = tokenizer.encode("a<tool>b<|end|>");
  EXPECT_EQ(tokenizer.decode(ids), "a<tool>b");
  EXPECT_EQ(tokenizer.decode(ids, false), "<|begin|>a<tool>b<|end|>");
}

TEST(Tokenizer, AnIdWithoutATokenDecodesToNothingAndANegativeOneIsRefused) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  std::vector<TokenId> ids = tokenizer.encode("ab", false);
  ids.insert(ids.begin() + 1, 5000);
  EXPECT_EQ(tokenizer.decode(ids), "ab");
  const std::vector<TokenId> negative = {3, -7};
  const base::Error error = error_of([&] { tokenizer.decode(negative); });
  EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
  EXPECT_NE(error.message().find("-7"), std::string::npos);
}

TEST(Tokenizer, TextThatIsNoUtf8IsRefused) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  const base::Error error = error_of([&] { tokenizer.encode("ab\xC3("); });
  EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
  EXPECT_NE(error.message().find("offset 2"), std::string::npos) << error.message();
}

TEST(Tokenizer, EmptyAndNulTexts) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  EXPECT_TRUE(tokenizer.encode("", false).empty());
  EXPECT_EQ(tokenizer.encode(""), std::vector<TokenId>{0});
  EXPECT_EQ(tokenizer.decode({}), "");
  const std::string nul("a\0b", 3);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(nul, false)), nul);
}

TEST(Tokenizer, BrokenFilesAreErrorsThatNameTheFile) {
  for (const char* json :
       {"", "{", "[]", "{\"model\": {}}", "{\"version\": \"1.0\", \"model\": {\"type\": \"Nonsense\"}}",
        "{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, "
        "\"merges\": [\"a b\"]}}"}) {
    const base::Error error = error_of([&] { Tokenizer::from_json(json, "broken.json"); });
    // A kind of model that is not known may be a good file of something else.
    const bool unknown = std::string_view(json).find("Nonsense") != std::string_view::npos ||
                         json == std::string_view("{\"model\": {}}");
    EXPECT_EQ(error.kind(), unknown ? base::ErrorKind::unsupported : base::ErrorKind::bad_input) << json;
    EXPECT_EQ(error.where(), "broken.json");
    EXPECT_FALSE(error.message().empty());
  }
  const TempFolder folder;
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), base::ErrorKind::not_found);
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path / "tokenizer.json"); }).kind(), base::ErrorKind::not_found);
}

TEST(Tokenizer, TokensThatOnlyTokenizerConfigNamesAreAdded) {
  const TempFolder folder;
  std::filesystem::copy_file(kFolder / "tokenizer.json", folder.path / "tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"701": {"content": "<late>", "special": true}}, "eos_token": "<late>"})");
  folder.write("config.json", R"({"eos_token_id": 5, "bos_token_id": 0})");
  const Tokenizer tokenizer = Tokenizer::load(folder.path);
  EXPECT_EQ(tokenizer.vocabulary_size(), 702);
  EXPECT_EQ(tokenizer.encode("<late>", false), std::vector<TokenId>{701});
  EXPECT_TRUE(tokenizer.is_special(701));
  EXPECT_EQ(tokenizer.end_tokens(), (std::vector<TokenId>{701, 5}))
      << "config.json, as there is no generation_config.json";
  EXPECT_EQ(tokenizer.bos(), 0);

  folder.write("tokenizer_config.json", R"({"added_tokens_decoder": {"900": {"content": "<late>", "special": true}}})");
  EXPECT_NE(error_of([&] { Tokenizer::load(folder.path); }).message().find("900"), std::string::npos);
  folder.write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {}}})");
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), base::ErrorKind::bad_input);
}

TEST(Tokenizer, ServesSeveralThreads) {
  const Tokenizer tokenizer = Tokenizer::load(kFolder);
  const std::string text = "def attention(self, query: int = 42) -> None: # naïve 😀\n";
  const std::vector<TokenId> expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i)
        if (tokenizer.encode(text) != expected || tokenizer.decode(expected) != text) ++wrong;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace coterie::text
