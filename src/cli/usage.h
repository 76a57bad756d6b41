#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace coterie::cli {

/// What CLI11 found wrong in plain words, with the nearest name where one was mistyped.
struct UsageFault {
  std::string message, hint;
};
UsageFault usage_fault(const CLI::App& app, const CLI::ParseError& error);

/// The command that was asked for, after parsing: the innermost, or the program itself.
const CLI::App& command_of(const CLI::App& app);

/// The words of a command line without the program's name, ready for parsing: `help [COMMAND]` becomes `[COMMAND]
/// --help`. Throws bad_input for an unknown command, with the nearest.
std::vector<std::string> command_line(const CLI::App& app, int argc, char** argv);

}  // namespace coterie::cli
