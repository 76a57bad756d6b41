#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace coterie::lens {

/// A text and where its words lie. `tags` is empty where nobody tagged it.
struct Document {
  std::string name, genre, text;
  struct Word {
    int64_t begin = 0, end = 0;  // bytes of `text`
    std::string tag;
  };
  std::vector<Word> words;
};

/// Reads words_TAG files, word and tag joined by the last underscore, words divided by white space, as the Manually
/// Annotated Sub-Corpus and NLTK have them. The text is put together as people write it: a line for each line, no space
/// before a comma or an "n't", none behind an opening bracket; of a pair of straight quotes the first opens. A folder
/// is read file by file (*.txt, in order), with the genres of its categories.txt ("FILE GENRE" a line) where there is
/// one, else by the folder a file lies in. A lone file's genre is its folder. A piece without a
/// tag ("D. C._NN" has one) is a word with none; throws bad_input, naming the first such line, where more than a tenth
/// are.
std::vector<Document> read_tagged(const std::filesystem::path& path);
/// Puts one such text together.
Document parse_tagged(std::string_view words, const std::string& name);

/// Of each token the word it belongs to: that in which its first byte lies which is not a white space; -1 for tokens of
/// white space alone, special tokens, and what lies between words. `text` is what `ids` were made of; where decoding
/// gives other white space than the text has, bytes are matched without it. Throws bad_input, naming the place, where
/// the tokens' text is another one.
std::vector<int32_t> align(const text::Tokenizer& tokenizer, std::span<const int32_t> ids, const Document& document);

}  // namespace coterie::lens
