#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace coterie::cli {

namespace {

constexpr size_t kColumn = 30, kWidth = 100;

size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// Words of a text in lines of at most `width`; its own line breaks count as spaces.
std::vector<std::string> wrapped(std::string_view text, size_t width) {
  std::vector<std::string> lines(1);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = text.find_first_not_of(" \n", at);
    if (begin == std::string_view::npos) break;
    const size_t end = std::min(text.find_first_of(" \n", begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    if (!lines.back().empty() && width_of(lines.back()) + 1 + width_of(word) > width) lines.emplace_back();
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += word;
    at = end;
  }
  return lines;
}

// Two columns; a left side that is too long has a line of its own.
std::string row(const std::string& left, std::string_view text) {
  std::string out = "  " + left;
  size_t at = width_of(out);
  for (const std::string& line : wrapped(text, kWidth - kColumn)) {
    if (at + 2 > kColumn) out += "\n", at = 0;
    out += std::string(kColumn - at, ' ') + line + "\n";
    at = 0;
  }
  return out;
}

// CLI11 joins the type's name and what each check calls itself.
void take_apart(const std::string& type, OptionWords& words) {
  size_t end = type.size();
  if (const size_t list = type.rfind(":{"); list != std::string::npos && type.ends_with("}")) {
    std::string_view rest = std::string_view(type).substr(list + 2, type.size() - list - 3);
    while (!rest.empty()) {
      const size_t comma = std::min(rest.find(','), rest.size());
      words.choices.emplace_back(rest.substr(0, comma));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    end = list;
  }
  for (const char* range : {":INT in [", ":UINT in [", ":FLOAT in [", ":POSITIVE", ":NONNEGATIVE"})
    end = std::min(end, type.find(range));
  words.value = type.substr(0, end);
  if (words.value == "INT" || words.value == "UINT") words.value = "N";
  if (words.value == "FLOAT") words.value = "X";
  if (words.value.empty() && !words.choices.empty()) words.value = "WORD";
}

}  // namespace

OptionWords words_of(const CLI::Option& option) {
  OptionWords words;
  for (const std::string& name : option.get_snames()) words.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) words.names.push_back("--" + name);
  if (option.get_positional()) words.position = option.get_name(true);
  words.heading = option.get_group();
  words.required = option.get_required();
  words.repeats = option.get_expected_max() == CLI::detail::expected_max_vector_size;
  // A flag takes no value of its own: --experts=live is said by its text.
  if (option.get_items_expected_max() != 0) take_apart(option.get_type_name(), words);
  words.text = option.get_description();
  const auto says = [&](const std::string& what) { return words.text.find(what) != std::string::npos; };
  if (!std::all_of(words.choices.begin(), words.choices.end(), says))
    words.text += fmt::format(": {}", fmt::join(words.choices, ", "));
  const std::string value = option.get_default_str();
  if (!value.empty() && value != "\"\"" && value != "[]" && !says("(default"))
    words.text += fmt::format(" (default: {})", value);
  return words;
}

std::vector<OptionWords> options_of(const CLI::App& command) {
  std::vector<OptionWords> all;
  std::vector<std::string> headings;
  for (const CLI::Option* option : command.get_options())
    if (std::find(headings.begin(), headings.end(), option->get_group()) == headings.end())
      headings.push_back(option->get_group());
  // What every command has comes last.
  std::stable_partition(headings.begin(), headings.end(), [](const auto& heading) { return heading != "Options"; });
  for (const std::string& heading : headings) {
    if (heading.empty()) continue;
    for (const CLI::Option* option : command.get_options())
      if (option->get_group() == heading) all.push_back(words_of(*option));
  }
  return all;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* sub) { return !sub->get_group().empty(); });
}

std::string usage_of(const CLI::App& app) {
  std::string name = app.get_name();
  for (const CLI::App* parent = app.get_parent(); parent; parent = parent->get_parent())
    name = parent->get_name() + " " + name;
  if (!commands_of(app).empty()) return name + " COMMAND …";
  name += " [OPTIONS]";
  for (const OptionWords& option : options_of(app)) {
    if (option.position.empty()) continue;
    const std::string word = option.position + (option.repeats ? "…" : "");
    name += option.required ? " " + word : " [" + word + "]";
  }
  return name;
}

std::string HelpFormatter::make_help(const CLI::App* app, std::string, CLI::AppFormatMode) const {
  std::string out = app->get_description() + "\n\nUsage: " + usage_of(*app) + "\n", heading;
  const std::vector<OptionWords> options = options_of(*app);
  for (const OptionWords& words : options)
    if (!words.position.empty()) out += "\n" + row(words.position + (words.repeats ? "…" : ""), words.text);
  for (const OptionWords& words : options) {
    if (words.names.empty()) continue;
    if (words.heading != heading) out += fmt::format("\n{}:\n", heading = words.heading);
    std::string left = fmt::format("{}", fmt::join(words.names, ", "));
    if (words.names.front().starts_with("--")) left = "    " + left;  // long names stand below each other
    if (!words.value.empty()) left += " " + words.value;
    const bool by_position = !words.position.empty();
    out += row(left, by_position ? fmt::format("The same as {}", words.position)
                                 : words.text + (words.required ? " (required)" : ""));
  }
  const std::vector<const CLI::App*> commands = commands_of(*app);
  if (!commands.empty()) out += "\nCommands:\n";
  for (const CLI::App* command : commands) {
    std::string name = command->get_name();
    for (const std::string& alias : command->get_aliases()) name += ", " + alias;
    out += row(name, command->get_description());
  }
  return out + "\n" + app->get_footer() + (app->get_footer().empty() ? "" : "\n");
}

}  // namespace coterie::cli
