#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/atomic_file.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/terminal.h"

// Completions of bash, zsh and fish, written out of the same definitions as --help.
namespace coterie::cli {

namespace {

struct CommandWords {
  std::string name;  // "tokenizer train"
  std::string text;
  std::vector<OptionWords> options;
};

void collect(const CLI::App& app, const std::string& before, std::vector<CommandWords>& all) {
  for (const CLI::App* command : commands_of(app)) {
    std::vector<std::string> names = command->get_aliases();
    names.insert(names.begin(), command->get_name());
    for (const std::string& name : names) {
      all.push_back({before + name, command->get_description(), options_of(*command)});
      collect(*command, before + name + " ", all);
    }
  }
}

// What a value is, as far as a shell can help with it.
bool is_file(const OptionWords& option) {
  const std::string& value = option.value;
  const std::string& place = option.position;
  return value.starts_with("FILE") || value.starts_with("DIR") || value.starts_with("FOLDER") || value == "MODEL" ||
         value.starts_with("OUT") || place.starts_with("MODEL") || place.starts_with("FILE") ||
         place.starts_with("RECIPE") || place.starts_with("FOLDER");
}

std::string quoted(std::string text, std::string_view special) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += ' ';
      continue;
    }
    if (c == '\'') {
      out += "'\\''";
      continue;
    }
    if (special.find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string words_after(const std::vector<CommandWords>& all, const std::string& before) {
  std::string words;
  for (const CommandWords& command : all)
    if (command.name.starts_with(before) && command.name.find(' ', before.size()) == std::string::npos)
      words += (words.empty() ? "" : " ") + command.name.substr(before.size());
  return words;
}

std::string bash(const std::vector<CommandWords>& all) {
  std::string out =
      "# bash completion of coterie, written by `coterie completions bash`\n"
      "_coterie() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} words=\n"
      "  if ((COMP_CWORD == 1)); then\n"
      "    COMPREPLY=($(compgen -W \"" +
      words_after(all, "") +
      " help --help --version\" -- \"$current\"))\n"
      "    return\n"
      "  fi\n"
      "  if [[ $command == help ]]; then\n"
      "    COMPREPLY=($(compgen -W \"" +
      words_after(all, "") + "\" -- \"$current\"))\n    return\n  fi\n  case $command in\n";
  for (const CommandWords& command : all)
    if (const std::string inner = words_after(all, command.name + " "); !inner.empty())
      out += fmt::format("    {0}) ((COMP_CWORD > 2)) && command+=\" ${{COMP_WORDS[2]}}\" || words='{1}' ;;\n",
                         command.name, inner);
  out += "  esac\n  case \"$command $before\" in\n";
  for (const CommandWords& command : all)
    for (const OptionWords& option : command.options)
      for (const std::string& name : option.names)
        if (!option.choices.empty())
          out += fmt::format("    '{} {}') COMPREPLY=($(compgen -W '{}' -- \"$current\")); return ;;\n", command.name,
                             name, fmt::join(option.choices, " "));
        else if (!option.value.empty())
          out += fmt::format("    '{} {}') COMPREPLY=($(compgen -{} -- \"$current\")); return ;;\n", command.name, name,
                             is_file(option) ? "f" : "W ''");
  out += "  esac\n  if [[ $current == -* ]]; then\n    case $command in\n";
  for (const CommandWords& command : all) {
    std::string names;
    for (const OptionWords& option : command.options)
      for (const std::string& name : option.names) names += (names.empty() ? "" : " ") + name;
    out += fmt::format("      '{}') words='{}' ;;\n", command.name, names);
  }
  return out +
         "    esac\n"
         "  fi\n"
         "  if [[ -n $words ]]; then\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "  else\n"
         "    COMPREPLY=($(compgen -f -- \"$current\"))\n"
         "  fi\n"
         "}\n"
         "complete -o filenames -F _coterie coterie\n";
}

std::string zsh(const std::vector<CommandWords>& all) {
  const auto text_of = [](const std::string& text) { return quoted(text, "[]:\\"); };
  std::string out =
      "#compdef coterie\n"
      "# zsh completion of coterie, written by `coterie completions zsh`\n"
      "_coterie() {\n"
      "  local -a commands\n"
      "  commands=(\n    'help:what a command does'\n";
  for (const CommandWords& command : all)
    if (command.name.find(' ') == std::string::npos)
      out += fmt::format("    '{}:{}'\n", command.name, text_of(command.text));
  out +=
      "  )\n"
      "  if ((CURRENT == 2)) || [[ $words[2] == help ]]; then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  local command=$words[2]\n"
      "  case $command in\n";
  for (const CommandWords& command : all)
    if (const std::string inner = words_after(all, command.name + " "); !inner.empty())
      out += fmt::format(
          "    {0})\n      if ((CURRENT == 3)); then\n        compadd {1}\n        return\n      fi\n"
          "      command+=\" $words[3]\"\n      shift words\n      ((CURRENT--)) ;;\n",
          command.name, inner);
  out += "  esac\n  shift words\n  ((CURRENT--))\n  case $command in\n";
  for (const CommandWords& command : all) {
    out += fmt::format("    '{}')\n      _arguments", command.name);
    for (const OptionWords& option : command.options) {
      const std::string action = !option.choices.empty() ? fmt::format("({})", fmt::join(option.choices, " "))
                                 : is_file(option)       ? std::string("_files")
                                                         : std::string(" ");
      for (const std::string& name : option.names)
        out += fmt::format(" \\\n        '{}{}[{}]{}'", option.repeats ? "*" : "", name, text_of(option.text),
                           option.value.empty() ? "" : fmt::format(":{}:{}", text_of(option.value), action));
      if (!option.position.empty())
        out += fmt::format(" \\\n        '{}:{}:{}'", option.repeats ? "*" : "", text_of(option.position), action);
    }
    out += " ;;\n";
  }
  return out + "  esac\n}\n_coterie \"$@\"\n";
}

std::string fish(const std::vector<CommandWords>& all) {
  const auto text_of = [](const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c == '\'' || c == '\\') out += '\\';
      out += c == '\n' ? ' ' : c;
    }
    return out;
  };
  std::string out =
      "# fish completion of coterie, written by `coterie completions fish`\n"
      "complete -c coterie -n __fish_use_subcommand -f -a help -d 'What a command does'\n"
      "complete -c coterie -n '__fish_seen_subcommand_from help' -f -a '" +
      words_after(all, "") + "'\n";
  for (const CommandWords& command : all) {
    const size_t space = command.name.find(' ');
    const std::string last = command.name.substr(space == std::string::npos ? 0 : space + 1);
    const std::string when = space == std::string::npos
                                 ? std::string("__fish_use_subcommand")
                                 : fmt::format("__fish_seen_subcommand_from {}", command.name.substr(0, space));
    out += fmt::format("complete -c coterie -n '{}' -f -a {} -d '{}'\n", when, last, text_of(command.text));
    for (const OptionWords& option : command.options) {
      if (option.names.empty()) continue;
      out += fmt::format("complete -c coterie -n '__fish_seen_subcommand_from {}'", last);
      for (const std::string& name : option.names)
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (!option.choices.empty())
        out += fmt::format(" -x -a '{}'", fmt::join(option.choices, " "));
      else if (!option.value.empty())
        out += is_file(option) ? " -r" : " -x";
      out += fmt::format(" -d '{}'\n", text_of(option.text));
    }
  }
  return out;
}

struct CompletionsOptions {
  std::string shell;
};

}  // namespace

void add_completions(CLI::App& app, Action& action) {
  auto options = std::make_shared<CompletionsOptions>();
  CLI::App* command = app.add_subcommand("completions", "Print the completion of commands and options for a shell");
  command->add_option("SHELL", options->shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer(
      "cmake --install puts them where shells look for them; this is for a program that was not installed.\n"
      "Examples:\n"
      "  source <(coterie completions bash)\n"
      "  coterie completions zsh > ~/.zfunc/_coterie\n"
      "  coterie completions fish > ~/.config/fish/completions/coterie.fish");
  command->callback([=, &action, &app] {
    action = [options, &app] {
      std::vector<CommandWords> all;
      collect(app, "", all);
      print(options->shell == "bash" ? bash(all) : options->shell == "zsh" ? zsh(all) : fish(all));
      return 0;
    };
  });
}

}  // namespace coterie::cli
