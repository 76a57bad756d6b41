#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

namespace coterie::cli {

/// Throws bad_input where what is at `out` is read by the command's options (cli/command_files.h): a source is never
/// overwritten. check_files() asks this of all that options name; for names that come while a command runs. `instead`:
/// the hint.
void refuse_source(const CLI::App& command, const std::filesystem::path& out, const std::string& instead);

}  // namespace coterie::cli
