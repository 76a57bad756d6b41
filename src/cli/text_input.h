#pragma once

#include <string>
#include <string_view>

namespace coterie::cli {

/// The contents of a file, or of standard input for "-", without a byte order mark. At most 256 MiB.
std::string file_contents(const std::string& path);

/// What a file or a pipe holds as a prompt or a message: UTF-8, without one line break at its end, which is the
/// editor's or the shell's. Throws bad_input, naming the file, for other bytes.
std::string prompt_from(const std::string& path);

/// The value of an option that is a text: TEXT, or prompt_from FILE for "@FILE" ("@-": standard input). "@@TEXT" is
/// "@TEXT". `option` is named in errors.
std::string text_or_file(const std::string& argument, std::string_view option);

/// \n, \r, \t and \\ of a text that came through a shell; other backslashes stay.
std::string unescaped(std::string_view text);

/// How errors call a file that was given as `path`: "standard input" for "-".
std::string name_of_input(const std::string& path);

}  // namespace coterie::cli
