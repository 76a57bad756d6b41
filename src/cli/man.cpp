#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>

#include "base/atomic_file.h"
#include "base/error.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "runtime/version.h"

// Manual pages, written out of the same definitions as --help.
namespace coterie::cli {

namespace {

std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
      out += std::string("\\&") + c;
    else
      out += c;
  }
  return out;
}

std::string flat(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

std::string name_of(const CLI::App& app) {
  std::string name = app.get_name();
  for (const CLI::App* parent = app.get_parent(); parent; parent = parent->get_parent())
    name = parent->get_name() + "-" + name;
  return name;
}

std::string page(const CLI::App& app) {
  const std::string name = name_of(app);
  std::string out =
      fmt::format(".TH {} 1 \"\" \"coterie {}\" \"Coterie\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.B {}\n", upper(name),
                  runtime::version(), roff(name), roff(flat(app.get_description())), roff(usage_of(app)));
  const std::vector<OptionWords> options = options_of(app);
  for (const OptionWords& option : options)
    if (!option.position.empty())
      out += fmt::format(".TP\n.I {}\n{}\n", roff(option.position), roff(flat(option.text)));
  std::string heading;
  for (const OptionWords& option : options) {
    if (option.names.empty()) continue;
    if (option.heading != heading) out += fmt::format(".SH {}\n", upper(heading = option.heading));
    out += fmt::format(".TP\n.B {}{}\n{}\n", roff(fmt::format("{}", fmt::join(option.names, ", "))),
                       option.value.empty() ? "" : fmt::format(" \\fI{}\\fR", roff(option.value)),
                       roff(flat(option.text)));
  }
  const std::vector<const CLI::App*> commands = commands_of(app);
  if (!commands.empty()) out += ".SH COMMANDS\n";
  for (const CLI::App* command : commands)
    out += fmt::format(".TP\n.BR {} (1)\n{}\n", roff(name_of(*command)), roff(flat(command->get_description())));
  if (!app.get_footer().empty()) out += fmt::format(".SH NOTES\n.nf\n{}\n.fi\n", roff(app.get_footer()));
  return out;
}

void write_pages(const CLI::App& app, const std::filesystem::path& folder) {
  base::write_text(folder / (name_of(app) + ".1"), page(app));
  for (const CLI::App* command : commands_of(app)) write_pages(*command, folder);
}

struct ManOptions {
  std::vector<std::string> command;
  std::string out;
};

}  // namespace

void add_man(CLI::App& app, Action& action) {
  auto options = std::make_shared<ManOptions>();
  CLI::App* command = app.add_subcommand("man", "Print the manual page of a command, or write all pages");
  CLI::Option* name = command->add_option("COMMAND", options->command, "The command (default: coterie itself)");
  command->add_option("-o,--output", options->out, "Write the pages of all commands into this folder")
      ->type_name("FOLDER")
      ->check(writes())
      ->excludes(name);
  command->footer(
      "cmake --install puts the pages where man looks for them.\n"
      "Examples:\n"
      "  coterie man run | man -l -");
  command->callback([=, &action, &app] {
    action = [options, &app] {
      if (!options->out.empty()) {
        write_pages(app, options->out);
        return 0;
      }
      const CLI::App* at = &app;
      for (const std::string& word : options->command) {
        const auto commands = at->get_subcommands({});
        const auto found =
            std::find_if(commands.begin(), commands.end(), [&](const CLI::App* sub) { return sub->check_name(word); });
        if (found == commands.end())
          base::fail(base::ErrorKind::bad_input, "", "\"{}\" is not a command of {}", word, at->get_name());
        at = *found;
      }
      print(page(*at));
      return 0;
    };
  });
}

}  // namespace coterie::cli
