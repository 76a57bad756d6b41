#include "serve/api/token_bytes.h"

#include <array>

#include "base/utf8.h"
#include "serve/api/model.h"

namespace coterie::serve {

namespace {

// GPT-2's bytes_to_unicode: printable bytes of Latin-1 are their own letters, the other 68 in order U+0100, U+0101, …
std::array<int, 0x144> letters_to_bytes() {
  std::array<int, 0x144> table;
  table.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table[static_cast<size_t>(printable ? byte : next++)] = byte;
  }
  return table;
}

// The code point that begins at text[at], and moves `at` past it; the text is UTF-8.
uint32_t next_letter(std::string_view text, size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const int length = std::max(1, base::utf8_length(lead));
  uint32_t letter = length == 1 ? lead : lead & (0xffU >> (length + 1));
  for (int i = 1; i < length && at + static_cast<size_t>(i) < text.size(); ++i)
    letter = letter << 6 | (static_cast<unsigned char>(text[at + static_cast<size_t>(i)]) & 0x3fU);
  at += static_cast<size_t>(length);
  return letter;
}

std::string from_letters(std::string_view token) {
  static const auto table = letters_to_bytes();
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const size_t begin = at;
    const uint32_t letter = next_letter(token, at);
    if (letter < table.size() && table[letter] >= 0)
      bytes += static_cast<char>(table[letter]);
    else  // an added token, which is written as it is
      bytes += token.substr(begin, at - begin);
  }
  return bytes;
}

std::string from_pieces(const std::string& token) {
  if (token.size() == 6 && token.starts_with("<0x") && token.back() == '>') {
    size_t read = 0;
    const int byte = std::stoi(token.substr(3, 2), &read, 16);
    if (read == 2) return std::string(1, static_cast<char>(byte));
  }
  std::string bytes;
  constexpr std::string_view kSpace = "\u2581";
  for (size_t at = 0; at < token.size();) {
    if (token.compare(at, kSpace.size(), kSpace) == 0)
      bytes += ' ', at += kSpace.size();
    else
      bytes += token[at++];
  }
  return bytes;
}

}  // namespace

TokenBytes::TokenBytes(const text::Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      writing_(tokenizer.id("\u0120")   ? Writing::letters
               : tokenizer.id("\u2581") ? Writing::pieces
               : tokenizer.id("<0x0A>") ? Writing::pieces
                                        : Writing::plain) {}

std::string TokenBytes::of(text::TokenId id) const {
  const std::optional<std::string> token = tokenizer_.token(id);
  if (!token) return {};
  if (tokenizer_.is_special(id)) return *token;
  switch (writing_) {
    case Writing::letters: return from_letters(*token);
    case Writing::pieces: return from_pieces(*token);
    case Writing::plain: return tokenizer_.decode({&id, 1}, false);
  }
  return {};
}

std::string ServedModel::token_text(text::TokenId id) const {
  const std::string all = bytes.of(id);
  std::string text;
  for (std::string_view rest = all; !rest.empty();) {
    const size_t good = base::valid_utf8_bytes(rest);
    text += rest.substr(0, good);
    rest.remove_prefix(good);
    if (rest.empty()) break;
    text += "\xef\xbf\xbd";
    rest.remove_prefix(1);
  }
  return text;
}

bool ServedModel::ends(text::TokenId id) const {
  for (const text::TokenId end : tokenizer.end_tokens())
    if (end == id) return true;
  return false;
}

}  // namespace coterie::serve
