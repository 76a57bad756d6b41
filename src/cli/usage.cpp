#include "cli/usage.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "base/error.h"
#include "base/nearest.h"
#include "cli/help.h"

namespace coterie::cli {

namespace {

std::string path_of(const CLI::App& command) {
  std::string path = command.get_name();
  for (const CLI::App* parent = command.get_parent(); parent; parent = parent->get_parent())
    path = parent->get_name() + " " + path;
  return path;
}

std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands_of(app)) {
    names.push_back(command->get_name());
    for (const std::string& alias : command->get_aliases()) names.push_back(alias);
  }
  return names;
}

UsageFault unexpected(const CLI::App& app) {
  const CLI::App& command = command_of(app);
  const std::string see = path_of(command) + " --help lists what there is";
  const std::vector<std::string> extras = command.remaining();
  const auto option = std::find_if(extras.begin(), extras.end(),
                                   [](const std::string& word) { return word.size() > 1 && word.starts_with("-"); });
  if (option == extras.end()) {
    const std::string& word = extras.front();
    if (!commands_of(command).empty()) {
      const std::string near = base::did_you_mean(word, names_of(command));
      return {fmt::format("{} has no command \"{}\"", path_of(command), word), near.empty() ? see : near};
    }
    return {fmt::format("\"{}\" is one argument too many", word), "the usage is: " + usage_of(command)};
  }
  const std::string name = option->substr(0, option->find('='));
  std::vector<std::string> known;
  for (const OptionWords& words : options_of(command))
    known.insert(known.end(), words.names.begin(), words.names.end());
  std::string near = base::did_you_mean(name, known);
  // "--tokns" is near "--tokens"; of "--experts-per-tok" and "--max-tokens" the beginning or the end is right.
  if (near.empty())
    for (const std::string& each : known)
      if (near.empty() && name.size() > 4 && each.starts_with(name)) near = fmt::format("did you mean \"{}\"?", each);
  return {fmt::format("{} has no option {}", path_of(command), name), near.empty() ? see : near + " " + see};
}

}  // namespace

const CLI::App& command_of(const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  return *command;
}

UsageFault usage_fault(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = command_of(app);
  // An unknown option's value may have been taken for something else: that is what is wrong first.
  const std::vector<std::string> extras = command.remaining();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) ||
      std::any_of(extras.begin(), extras.end(),
                  [](const std::string& word) { return word.size() > 1 && word.starts_with("-"); }))
    return unexpected(app);
  const std::string what = error.what();
  UsageFault fault{what, path_of(command) + " --help lists what there is"};
  std::smatch found;
  // Options that are given by position or by name are called by their place.
  const auto shown = [&](const std::string& name) {
    for (const OptionWords& words : options_of(command))
      if (!words.position.empty() && std::find(words.names.begin(), words.names.end(), name) != words.names.end())
        return words.position;
    return name;
  };
  if (std::regex_match(what, found, std::regex("(\\S+) excludes (\\S+)"))) {
    fault.message = fmt::format("{} and {} cannot be used together", shown(found[1]), shown(found[2]));
    fault.hint = "leave one of them out";
  } else if (std::regex_match(what, found, std::regex("(\\S+) requires (\\S+)"))) {
    fault.message = fmt::format("{} needs {}", shown(found[1]), shown(found[2]));
    fault.hint = fmt::format("add {}, or leave {} out", shown(found[2]), shown(found[1]));
  } else if (what == "A subcommand is required") {
    fault.message = fmt::format("{} needs a command", path_of(command));
    fault.hint = fmt::format("there is: {}", fmt::join(names_of(command), ", "));
  } else if (std::regex_match(what, found, std::regex("(.+) is required"))) {
    fault.message = fmt::format("{} is missing", shown(found[1]));
    fault.hint = "the usage is: " + usage_of(command);
  } else if (std::regex_match(what, found, std::regex("(\\S+): \\d+ required (\\S+) missing"))) {
    fault.message = fmt::format("{} needs a value", shown(found[1]));
  } else if (std::regex_match(what, found, std::regex("Could not convert: (\\S+) = ([\\s\\S]*)"))) {
    const std::string value = found[2];
    const bool large = std::regex_match(value, std::regex("[-+]?\\d{10,}"));
    fault.message = large ? fmt::format("{}: {} is too large", shown(found[1]), value)
                          : fmt::format("{}: \"{}\" is not a number", shown(found[1]), value);
  } else if (std::regex_match(what, found, std::regex("(\\S+): (\\S+) not in \\{(.*)\\}"))) {
    std::string list = found[3];
    for (size_t at = 0; (at = list.find(',', at)) != std::string::npos; at += 2) list.replace(at, 1, ", ");
    fault.message = fmt::format("{}: \"{}\" is not one of {}", shown(found[1]), found[2].str(), list);
  }
  return fault;
}

std::vector<std::string> command_line(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool help = !words.empty() && words.front() == "help";
  if (help) words.erase(words.begin());
  const auto is_known = [&](const std::string& word) {
    const auto all = app.get_subcommands({});
    return std::any_of(all.begin(), all.end(), [&](const CLI::App* sub) { return sub->check_name(word); });
  };
  if (!words.empty() && !words.front().starts_with("-") && !is_known(words.front())) {
    const std::vector<std::string> known = names_of(app);
    const std::string near = base::did_you_mean(words.front(), known);
    throw base::Error(base::ErrorKind::bad_input, "", fmt::format("\"{}\" is not a command", words.front()),
                      near.empty() ? fmt::format("there are {}", fmt::join(known, ", ")) : near);
  }
  if (help) words.push_back("--help");
  return words;
}

}  // namespace coterie::cli
