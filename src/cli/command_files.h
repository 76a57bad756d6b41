#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

// What the options of a command name in the file system. Each such option says so where it is added,
//
//   app.add_option("--text", text, "…")->check(reads());
//   app.add_option("-o,--output", out, "…")->check(writes());
//
// and the rules below hold for it. A test refuses options that name files and do not say what they do with them.
namespace coterie::cli {

/// How the value of an option names what is read.
enum class Reads {
  path,     // a file, or a folder with all that is in it; what does not exist is none
  text,     // a text, or @FILE
  adapter,  // DIR or DIR:SCALE
  named,    // PATH, NAME=PATH or NAME=DIR:SCALE
  draft,    // draft:PATH, or what is not read from a file
  run,      // a training run's folder, or those above several; reports in it are written, not read
};
/// What the value of an option names that is written.
enum class Writes {
  path,       // a file, or a folder that has to be new or empty
  page,       // a file, and a .json of the same name beside it
  tokenizer,  // a folder for tokenizer.json and tokenizer_config.json
};

/// Marks of options, to be given to CLI::Option::check. They check nothing by themselves.
CLI::Validator reads(Reads how = Reads::path);
CLI::Validator writes(Writes what = Writes::path);
/// Of a text that may be empty: values of other options may not.
CLI::Validator may_be_empty();

/// Looks at the options that were given to the command, before it begins:
/// - Throws bad_input for a value that is empty and may not be.
/// - Throws bad_input where a file that exists is both to be read and to be written, under whatever name (symbolic and
///   hard links, the parts of a split GGUF, the models of an ensemble, every file of a folder that is read): a source
///   is never overwritten, --force or not.
/// - Removes what earlier commands that were killed left of what is to be written (base/leftovers.h), and notes it.
void check_files(const CLI::App& command);

/// The options of all commands whose values have the name of a file or folder in --help and that are not marked.
std::vector<std::string> unmarked_options(const CLI::App& app);

}  // namespace coterie::cli
