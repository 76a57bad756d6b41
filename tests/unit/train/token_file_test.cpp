#include "train/token_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "checkpoint/tensor_sink.h"
#include "support/temp_folder.h"
#include "text/tokenizer_training.h"

namespace coterie::train {
namespace {

struct TokenFiles : testing::Test {
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder / name) << text;
    return folder / name;
  }
  std::vector<int32_t> tokens_of(const std::vector<TextSource>& sources, std::optional<int32_t> separator = {}) const {
    write_token_file(folder / "out.safetensors", sources, bytes, separator);
    const TokenFile file = TokenFile::open(folder / "out.safetensors", 257);
    std::vector<int32_t> ids(static_cast<size_t>(file.size()));
    file.read(0, ids);
    return ids;
  }
  std::string message_of(const std::function<void()>& work) const {
    try {
      work();
    } catch (const base::Error& error) {
      return error.where().substr(error.where().rfind('/') + 1) + ": " + error.message();
    }
    return "no error";
  }
  TempFolder folder;
  text::Tokenizer bytes =
      text::Tokenizer::from_json(text::train_tokenizer({text::TokenizerRecipe::Kind::bytes, 0, 0, {"<end>"}}, {}), "t");
};

TEST_F(TokenFiles, ATextIsADocumentAndALineOfJsonlIsOne) {
  const auto text = write("a.txt", "ab\nc");
  const auto lines = write("b.jsonl", "{\"text\": \"d\"}\n\n{\"text\": \"\\u0065f\", \"more\": 1}\n");
  EXPECT_EQ(tokens_of({{text}, {lines, TextSource::Format::jsonl}}),
            (std::vector<int32_t>{'a', 'b', '\n', 'c', 'd', 'e', 'f'}));
  EXPECT_EQ(tokens_of({{text}, {lines, TextSource::Format::jsonl}}, 256),
            (std::vector<int32_t>{'a', 'b', '\n', 'c', 256, 'd', 256, 'e', 'f', 256}));
}

TEST_F(TokenFiles, ReadsWhatOthersWrote) {
  const std::vector<int64_t> ids = {5, 6, 7, 8, 9, 10};
  const checkpoint::TensorToWrite tensor = {
      "input_ids", tensor::DType::i64, {2, 3}, [&](const auto& write) { write(std::as_bytes(std::span(ids))); }};
  checkpoint::write_safetensors(folder / "ids.safetensors", {&tensor, 1});
  const TokenFile file = TokenFile::open(folder / "ids.safetensors", 11);
  EXPECT_EQ(file.size(), 6);
  std::vector<int32_t> piece(3);
  file.read(2, piece);
  EXPECT_EQ(piece, (std::vector<int32_t>{7, 8, 9}));
  EXPECT_EQ(message_of([&] { TokenFile::open(folder / "ids.safetensors", 9); }),
            "ids.safetensors: input_ids: id 9 at position 4 is outside of the vocabulary of 9");
}

TEST_F(TokenFiles, BadDataIsNamed) {
  const auto jsonl = TextSource::Format::jsonl;
  EXPECT_EQ(message_of([&] { tokens_of({}); }), "data: no files are given");
  EXPECT_EQ(message_of([&] { tokens_of({{folder / "absent.txt"}}); }).substr(0, 12), "absent.txt: ");
  EXPECT_EQ(message_of([&] {
              tokens_of({{write("b.jsonl", "{\"text\": \"d\"}\n[1]\n"), jsonl}});
            }),
            "b.jsonl: line 2: expected a JSON object, found array");
  EXPECT_EQ(message_of([&] {
              tokens_of({{write("b.jsonl", "{\"body\": \"d\"}\n"), jsonl}});
            }),
            "b.jsonl: line 1: key \"text\" is missing");
  EXPECT_EQ(message_of([&] { tokens_of({{write("c.txt", "a\xFF")}}); }),
            "c.txt: the text is not UTF-8: bad byte 0xff at offset 1");
  EXPECT_FALSE(std::filesystem::exists(folder / "out.safetensors"));
}

}  // namespace
}  // namespace coterie::train
