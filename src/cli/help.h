#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace coterie::cli {

/// While it lives, options that are added to the command are listed under this heading of --help.
class Heading {
 public:
  Heading(CLI::App& app, const std::string& name) : app_(app), before_(app.option_defaults()->get_group()) {
    app_.option_defaults()->group(name);
  }
  ~Heading() { app_.option_defaults()->group(before_); }
  Heading(const Heading&) = delete;
  Heading& operator=(const Heading&) = delete;

 private:
  CLI::App& app_;
  std::string before_;
};

// The headings of commands that run a model, in the order they are added in.
inline constexpr char kInput[] = "Input", kOutput[] = "Output", kSampling[] = "Sampling", kRouting[] = "Routing",
                      kMachine[] = "Machine";

/// What --help, the manual and the completions of shells say about an option, from its one definition.
struct OptionWords {
  std::vector<std::string> names;    // "-n", "--tokens"; empty for one that is given by position alone
  std::string position;              // "MODEL", or empty
  std::string value;                 // "N"; empty for a flag
  std::vector<std::string> choices;  // the values there are, where they are few
  std::string text;                  // with its default
  std::string heading;
  bool repeats = false, required = false;
};
OptionWords words_of(const CLI::Option& option);
/// Those that are listed, in the order of their headings.
std::vector<OptionWords> options_of(const CLI::App& command);
/// The commands of the program, or of a command, that are listed.
std::vector<const CLI::App*> commands_of(const CLI::App& app);
/// "coterie run [OPTIONS] MODEL"
std::string usage_of(const CLI::App& app);

/// --help: headings, a line or more for each option, nothing of the library's own language.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
};

}  // namespace coterie::cli
