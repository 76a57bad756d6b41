#include "lens/tagged_text.h"

#include <algorithm>
#include <array>
#include <map>
#include <sstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "text/tokenizer.h"

namespace coterie::lens {

namespace {

namespace fs = std::filesystem;
using base::ErrorKind;

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v'; }

bool one_of(std::string_view word, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// Whether a word is written without a space before it.
bool joins_left(std::string_view word) {
  if (one_of(word, {",", ".", ";", ":", "!", "?", ")", "]", "}", "%", "...", "''", "n't", "N'T"})) return true;
  // 's, 're, 'll, 'd …, but not a quote or a year ('98).
  return word.size() > 1 && word.size() <= 3 && word[0] == '\'' && std::isalpha(static_cast<unsigned char>(word[1]));
}
bool joins_right(std::string_view word) { return one_of(word, {"(", "[", "{", "$", "#", "``", "`"}); }

}  // namespace

Document parse_tagged(std::string_view words, const std::string& name) {
  Document document{.name = name, .genre = {}, .text = {}, .words = {}};
  std::string& text = document.text;
  bool tight = true, open = false;  // no space comes before the next word; inside of a pair of straight quotes
  int64_t line = 1, without = 0, first_without = 0;
  std::string_view example;
  for (size_t at = 0; at < words.size();) {
    if (is_space(words[at])) {
      if (words[at] == '\n') {
        ++line;
        if (!text.empty()) text += '\n';
        tight = true, open = false;
      }
      ++at;
      continue;
    }
    size_t end = at;
    while (end < words.size() && !is_space(words[end])) ++end;
    const std::string_view both = words.substr(at, end - at);
    at = end;
    const size_t cut = both.rfind('_');
    const bool tagged = cut != std::string_view::npos && cut > 0 && cut + 1 < both.size();
    if (!tagged && ++without == 1) first_without = line, example = both;
    const std::string_view word = tagged ? both.substr(0, cut) : both, tag = tagged ? both.substr(cut + 1) : "";
    const bool quote = word == "\"", closes = quote && open;
    if (!tight && !joins_left(word) && !closes) text += ' ';
    if (quote) open = !open;
    const auto begin = static_cast<int64_t>(text.size());
    text += word;
    document.words.push_back({begin, static_cast<int64_t>(text.size()), std::string(tag)});
    tight = joins_right(word) || (quote && open);
  }
  if (10 * without > std::ssize(document.words))
    throw base::Error(ErrorKind::bad_input, fmt::format("{}: line {}", name, first_without),
                      fmt::format("\"{}\" is not of the form word_TAG, and {} of {} words are none", example, without,
                                  document.words.size()),
                      "a plain text is given with --text");
  return document;
}

namespace {

std::map<std::string, std::string> categories(const fs::path& folder) {
  std::map<std::string, std::string> genres;
  const fs::path list = folder / "categories.txt";
  if (!fs::exists(list)) return genres;
  std::istringstream lines(base::read_text(list));
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::istringstream parts(line);
    std::string file, genre;
    if (!(parts >> file)) continue;
    if (!(parts >> genre))
      base::fail(ErrorKind::bad_input, list.string(), "line {}: expected a file and its genre", number);
    genres[file] = genre;
  }
  return genres;
}

Document read_one(const fs::path& file, const std::string& name) {
  Document document = parse_tagged(base::read_text(file), name);
  document.genre = fs::absolute(file).parent_path().filename().string();
  return document;
}

}  // namespace

std::vector<Document> read_tagged(const fs::path& path) {
  std::vector<Document> documents;
  if (!fs::exists(path)) base::fail(ErrorKind::not_found, path.string(), "there is no such file or folder");
  if (!fs::is_directory(path)) {
    documents.push_back(read_one(path, path.filename().string()));
  } else {
    const std::map<std::string, std::string> genres = categories(path);
    std::vector<fs::path> files;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file() && entry.path().extension() == ".txt" && entry.path().filename() != "categories.txt")
        files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
      const std::string name = fs::relative(file, path).generic_string();
      Document document = read_one(file, name);
      if (const auto found = genres.find(name); found != genres.end()) document.genre = found->second;
      if (!document.words.empty()) documents.push_back(std::move(document));
    }
  }
  if (documents.empty() || documents.front().words.empty())
    base::fail(ErrorKind::bad_input, path.string(), "holds no word_TAG");
  return documents;
}

std::vector<int32_t> align(const text::Tokenizer& tokenizer, std::span<const int32_t> ids, const Document& document) {
  text::StreamDecoder decoder(tokenizer, true);
  const std::string& text = document.text;
  std::vector<int32_t> result(ids.size(), -1);
  size_t at = 0, word = 0;      // of text; of its words
  std::vector<size_t> waiting;  // tokens whose character a later one completes
  const auto take = [&](std::string_view piece, size_t token) {
    waiting.push_back(token);
    if (piece.empty()) return;
    int32_t first = -1;
    for (const char c : piece) {
      if (is_space(c)) {
        if (at < text.size() && is_space(text[at])) ++at;
        continue;
      }
      while (at < text.size() && is_space(text[at])) ++at;
      if (at == text.size() || text[at] != c)
        throw base::Error(ErrorKind::bad_input, document.name,
                          fmt::format("the tokens decode to another text: from byte {} on \"{}\" where it has \"{}\"",
                                      at, piece, text.substr(at, std::min<size_t>(16, text.size() - at))),
                          "a tokenizer that changes its text (lower case, other accents) cannot be aligned with words");
      while (word < document.words.size() && document.words[word].end <= static_cast<int64_t>(at)) ++word;
      if (first < 0 && word < document.words.size() && document.words[word].begin <= static_cast<int64_t>(at))
        first = static_cast<int32_t>(word);
      ++at;
    }
    for (const size_t t : waiting) result[t] = first;
    waiting.clear();
  };
  for (size_t i = 0; i < ids.size(); ++i) {
    if (tokenizer.is_special(ids[i])) continue;
    take(decoder.push(ids[i]), i);
  }
  const std::string rest = decoder.finish();
  if (!waiting.empty() && !rest.empty()) {
    const size_t last = waiting.back();
    waiting.pop_back();
    take(rest, last);
  }
  return result;
}

}  // namespace coterie::lens
