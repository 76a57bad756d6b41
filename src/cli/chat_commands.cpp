#include "cli/chat_commands.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/nearest.h"

namespace coterie::cli {

namespace {

using Takes = ChatCommand::Takes;

constexpr ChatCommand kCommands[] = {
    {"/help", Takes::nothing, "this list"},
    {"/read", Takes::file, "FILE: put the file's text in front of your next message"},
    {"/system", Takes::maybe_text, "[TEXT]: set the system message (@FILE reads it); alone, show it"},
    {"/regenerate", Takes::nothing, "answer the last message anew"},
    {"/edit", Takes::maybe_text, "[TEXT]: change your last message, and answer that"},
    {"/tokens", Takes::maybe_text, "[TEXT]: how many tokens the conversation has; the tokens of TEXT"},
    {"/experts", Takes::nothing, "which experts the last answer's tokens went to"},
    {"/reset", Takes::nothing, "forget the conversation, keep the system message"},
    {"/save", Takes::file, "FILE: write the conversation as JSON; /save! replaces a file"},
    {"/save!", Takes::file, ""},
    {"/load", Takes::file, "FILE: go on with a saved conversation"},
    {"/quit", Takes::nothing, "leave (also Ctrl-D)"},
    {"/exit", Takes::nothing, ""},
};

const ChatCommand* find(std::string_view name) {
  const auto at =
      std::find_if(std::begin(kCommands), std::end(kCommands), [&](const auto& c) { return c.name == name; });
  return at == std::end(kCommands) ? nullptr : at;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

}  // namespace

std::span<const ChatCommand> chat_commands() { return kCommands; }

std::string chat_help() {
  std::string text;
  for (const ChatCommand& command : kCommands)
    if (!command.help.empty()) text += fmt::format("{:<13}{}\n", command.name, command.help);
  return text +
         "Ctrl-C stops an answer. A line that ends with \\ goes on in the next one; Alt-Enter breaks a line; lines "
         "between\n\"\"\" and \"\"\" are one message, as is what is pasted. A message that begins with a slash: write "
         "//.\n";
}

ChatOrder read_order(const std::string& line) {
  const std::string_view whole = trimmed(line);
  const std::string word(whole.substr(0, whole.find_first_of(" \t\n")));
  const std::string_view rest = trimmed(whole.substr(word.size()));
  const ChatCommand* command = find(word);
  if (!command) {
    std::vector<std::string> known;
    for (const ChatCommand& c : kCommands) known.emplace_back(c.name);
    const std::string near = base::did_you_mean(word, known);
    throw base::Error(
        base::ErrorKind::bad_input, word, "is not a command",
        (near.empty() ? "" : near + " ") + "/help lists the commands; // begins a message that begins with a slash");
  }
  if (command->takes == Takes::file && rest.empty())
    base::fail(base::ErrorKind::bad_input, word, "needs the name of a file");
  if (command->takes == Takes::nothing && !rest.empty())
    base::fail(base::ErrorKind::bad_input, word, "takes nothing after it");
  return {command->name, std::string(rest)};
}

namespace {

Completion complete_file(std::string_view before, size_t begin) {
  namespace fs = std::filesystem;
  Completion found{begin, {}};
  const std::string typed(before.substr(begin));
  const size_t slash = typed.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : typed.substr(0, slash + 1);
  const std::string start = typed.substr(folder.size());
  std::string place = folder.empty() ? "." : folder;
  const char* home = std::getenv("HOME");
  if (place.starts_with("~/") && home) place.replace(0, 1, home);
  std::error_code code;
  for (fs::directory_iterator at(place, code), end; !code && at != end; at.increment(code)) {
    const std::string name = at->path().filename().string();
    if (!name.starts_with(start) || (start.empty() && name.starts_with("."))) continue;
    std::error_code unknown;
    found.choices.push_back(folder + name + (at->is_directory(unknown) ? "/" : ""));
  }
  std::sort(found.choices.begin(), found.choices.end());
  return found;
}

}  // namespace

Completion complete_chat(std::string_view before) {
  if (!before.starts_with("/") || before.starts_with("//")) return {};
  const size_t space = before.find(' ');
  if (space == std::string_view::npos) {
    Completion found;
    for (const ChatCommand& command : kCommands)
      if (command.name.starts_with(before))
        found.choices.push_back(std::string(command.name) + (command.takes == Takes::nothing ? "" : " "));
    return found;
  }
  const ChatCommand* command = find(before.substr(0, space));
  const size_t begin = before.find_first_not_of(' ', space);
  if (!command || command->takes != Takes::file) return {};
  return complete_file(before, begin == std::string_view::npos ? before.size() : begin);
}

}  // namespace coterie::cli
