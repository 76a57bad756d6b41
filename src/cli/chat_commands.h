#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/line_editor.h"

namespace coterie::cli {

/// A line of a chat that is not a message.
struct ChatCommand {
  enum class Takes { nothing, file, text, maybe_text };
  std::string_view name;
  Takes takes;
  std::string_view help;  // "FILE   what it does"; empty for another name of a command
};
std::span<const ChatCommand> chat_commands();
/// What /help shows.
std::string chat_help();

/// A line that begins with a slash, taken apart. Throws bad_input for an unknown command, with the nearest, and where
/// what follows it is missing or too much.
struct ChatOrder {
  std::string_view name;
  std::string argument;
};
ChatOrder read_order(const std::string& line);

/// Commands after a slash at the start, files behind those that take one.
Completion complete_chat(std::string_view before_cursor);

}  // namespace coterie::cli
