#include "cli/message_reader.h"

#include "base/error.h"
#include "base/utf8.h"
#include "cli/chat_commands.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

constexpr std::string_view kFence = "\"\"\"";
// What Linux keeps of a line that a terminal hands over whole.
constexpr size_t kLongestLine = 4095;

}  // namespace

MessageReader::MessageReader(const std::filesystem::path& history)
    : interactive_(stdin_is_terminal()), history_(interactive_ ? history : std::filesystem::path()) {
  if (LineEditor::possible()) editor_.emplace(history_, complete_chat);
}

LineReader::Outcome MessageReader::line(std::string& line, bool first, std::string_view given) {
  const std::string prompt = styled(first ? "> " : "… ", Style::green);
  if (editor_) {
    // \1 around what takes no room on the screen.
    std::string shown = prompt;
    const size_t text = shown.find(first ? "> " : "… "), size = first ? 2 : std::string_view("… ").size();
    if (text > 0)
      shown = "\1" + shown.substr(0, text) + "\1" + shown.substr(text, size) + "\1" + shown.substr(text + size) + "\1";
    return editor_->next(shown, given, line);
  }
  if (interactive_ && stdout_is_terminal()) print(prompt);
  const LineReader::Outcome outcome = lines_.next(line);
  if (outcome == LineReader::Outcome::line && interactive_ && line.size() >= kLongestLine)
    throw base::Error(base::ErrorKind::bad_input, "",
                      fmt::format("the terminal may have cut this line: it keeps {} bytes of one", kLongestLine),
                      "/read FILE takes texts of any length");
  return outcome;
}

LineReader::Outcome MessageReader::next(std::string& message, std::string_view given) {
  using Outcome = LineReader::Outcome;
  message.clear();
  std::string part;
  Outcome outcome = line(part, true, given);
  if (outcome != Outcome::line) return outcome;
  if (part.starts_with(kFence)) {
    part.erase(0, kFence.size());
    bool first = true;
    // A text of one line may end on it: """text""".
    while (!part.ends_with(kFence)) {
      if (!(first && part.empty())) message += part + "\n";
      first = false;
      outcome = line(part, false, {});
      if (outcome == Outcome::interrupted) return outcome;
      if (outcome == Outcome::end)
        throw base::Error(base::ErrorKind::bad_input, "", "the input ended within \"\"\"",
                          "end the message with \"\"\"");
    }
    part.resize(part.size() - kFence.size());
    message += part;
    if (part.empty() && message.ends_with("\n")) message.pop_back();
  } else {
    for (;;) {
      message += part;
      if (!message.ends_with("\\")) break;
      message.back() = '\n';
      outcome = line(part, false, {});
      if (outcome == Outcome::interrupted) return outcome;
      if (outcome == Outcome::end) break;
    }
  }
  base::require_utf8(message, "", "the message");
  return Outcome::line;
}

std::string MessageReader::problem() {
  if (told_ || history_.problem().empty()) return {};
  told_ = true;
  return history_.problem();
}

}  // namespace coterie::cli
