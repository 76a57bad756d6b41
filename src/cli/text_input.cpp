#include "cli/text_input.h"

#include <cstdio>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/utf8.h"

namespace coterie::cli {

std::string name_of_input(const std::string& path) { return path == "-" ? "standard input" : path; }

std::string file_contents(const std::string& path) {
  std::string text;
  if (path == "-") {
    char piece[1 << 16];
    while (const size_t got = std::fread(piece, 1, sizeof(piece), stdin)) {
      text.append(piece, got);
      if (text.size() > size_t{256} << 20)
        base::fail(base::ErrorKind::bad_input, "standard input", "is larger than 256 MiB");
    }
  } else {
    text = base::read_text(path);
  }
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  return text;
}

std::string prompt_from(const std::string& path) {
  std::string text = file_contents(path);
  base::require_utf8(text, name_of_input(path), "the text");
  if (text.ends_with("\n")) text.pop_back();
  if (text.ends_with("\r")) text.pop_back();
  return text;
}

std::string text_or_file(const std::string& argument, std::string_view option) {
  if (!argument.starts_with("@")) {
    base::require_utf8(argument, option, "the text");
    return argument;
  }
  const std::string path = argument.substr(1);
  if (path.starts_with("@")) return text_or_file(" " + path, option).substr(1);
  std::error_code absent;
  if (path != "-" && !std::filesystem::exists(path, absent))
    throw base::Error(base::ErrorKind::not_found, std::string(option),
                      "there is no file \"" + path + "\": a text that begins with @ names a file to read",
                      "write @@ for a text that begins with @");
  return prompt_from(path);
}

std::string unescaped(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (next != 'n' && next != 't' && next != 'r' && next != '\\') {
      result += text[i];
      continue;
    }
    result += next == 'n' ? '\n' : next == 't' ? '\t' : next == 'r' ? '\r' : '\\';
    ++i;
  }
  return result;
}

}  // namespace coterie::cli
