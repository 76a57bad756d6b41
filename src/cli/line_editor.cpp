#include "cli/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

// A byte that is not UTF-8 travels as one of these, which are not characters, as Python's surrogateescape has it.
constexpr wchar_t kBadByte = 0xdc00;
constexpr std::string_view kPasteOn = "\033[?2004h", kPasteOff = "\033[?2004l", kPasteEnd = "\033[201~";

// What a signal finds: the terminal as it was before, to be put back before the program ends.
termios before_editing;
volatile sig_atomic_t editing = 0, interrupted_line = 0, resized = 0, continued = 0;

// Whichever thread a signal comes to, and whenever: a byte in this pipe ends the waiting for a key.
int wake_up[2] = {-1, -1};
void wake() {
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(wake_up[1], "", 1);
  errno = error;
}
void on_interrupt(int) {
  interrupted_line = 1;
  wake();
}
void on_resize(int) {
  resized = 1;
  wake();
}
void on_continue(int) {
  continued = 1;
  wake();
}
void on_end(int number) {
  if (editing) {
    ::tcsetattr(STDIN_FILENO, TCSANOW, &before_editing);
    [[maybe_unused]] const ssize_t written = ::write(STDOUT_FILENO, kPasteOff.data(), kPasteOff.size());
  }
  ::signal(number, SIG_DFL);
  ::raise(number);
}

/// A signal's handler while it lives.
class Handler {
 public:
  Handler(int number, void (*handle)(int)) : number_(number) {
    struct sigaction action {};
    action.sa_handler = handle;
    sigemptyset(&action.sa_mask);
    ::sigaction(number, &action, &before_);
  }
  ~Handler() { ::sigaction(number_, &before_, nullptr); }
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;

 private:
  int number_;
  struct sigaction before_ {};
};

// libedit asks the C library how wide a character is and how it is written; in the C locale it is told "unknown".
void use_utf8() {
  const auto utf8 = [] { return std::string_view(::nl_langinfo(CODESET)) == "UTF-8"; };
  if (std::setlocale(LC_CTYPE, "") && utf8()) return;
  if (!std::setlocale(LC_CTYPE, "C.UTF-8")) std::setlocale(LC_CTYPE, "en_US.UTF-8");
}

std::wstring widened(std::string_view text) {
  std::wstring wide;
  for (size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    const auto length = static_cast<size_t>(base::utf8_length(lead));
    if (length == 0 || base::valid_utf8_bytes(text.substr(at, length)) != length || at + length > text.size()) {
      wide += static_cast<wchar_t>(kBadByte + lead);
      ++at;
      continue;
    }
    auto value = static_cast<wchar_t>(length == 1 ? lead : lead & (0xff >> (length + 1)));
    for (size_t i = 1; i < length; ++i) value = (value << 6) | (static_cast<unsigned char>(text[at + i]) & 0x3f);
    wide += value;
    at += length;
  }
  return wide;
}

std::string narrowed(std::wstring_view wide) {
  std::string text;
  const auto put = [&](wchar_t value) { text += static_cast<char>(value); };
  for (const wchar_t c : wide) {
    if (c < 0x80) {
      put(c);
    } else if (c >= kBadByte && c <= kBadByte + 0xff) {
      put(c - kBadByte);
    } else if (c < 0x800) {
      put(0xc0 | (c >> 6)), put(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
      put(0xe0 | (c >> 12)), put(0x80 | ((c >> 6) & 0x3f)), put(0x80 | (c & 0x3f));
    } else {
      put(0xf0 | (c >> 18)), put(0x80 | ((c >> 12) & 0x3f)), put(0x80 | ((c >> 6) & 0x3f)), put(0x80 | (c & 0x3f));
    }
  }
  return text;
}

}  // namespace

struct LineEditor::State {
  State(ChatHistory& kept, Completer completer) : history(kept), complete(std::move(completer)) {}

  ChatHistory& history;
  Completer complete;
  EditLine* editor = nullptr;
  HistoryW* lines = nullptr;
  std::wstring prompt, given;
  std::string bytes;  // read and not used yet, from `used`
  size_t used = 0;
  std::optional<Handler> on_terminate, on_hangup;

  static State& of(EditLine* editor) {
    void* state = nullptr;
    ::el_wget(editor, EL_CLIENTDATA, &state);
    return *static_cast<State*>(state);
  }

  // At the start of a line its keys are bound anew: ~/.editrc may have chosen another set of them.
  void bind() const {
    const auto key = [&](const wchar_t* keys, const wchar_t* what) { ::el_wset(editor, EL_BIND, keys, what, nullptr); };
    key(L"\\e[200~", L"coterie-paste");
    key(L"\\e[9977~", L"coterie-given");
    key(L"\\e\\r", L"coterie-newline");
    key(L"\\e\\n", L"coterie-newline");
    key(L"\\t", L"coterie-complete");
    key(L"^R", L"em-inc-search-prev");
    key(L"^W", L"ed-delete-prev-word");
    key(L"\\e[1~", L"ed-move-to-beg");
    key(L"\\e[4~", L"ed-move-to-end");
    key(L"\\e[H", L"ed-move-to-beg");
    key(L"\\e[F", L"ed-move-to-end");
    key(L"\\e[3~", L"ed-delete-next-char");
    key(L"\\e[1;5D", L"ed-prev-word");
    key(L"\\e[1;5C", L"em-next-word");
  }

  // The next byte, -1 at the end, after Ctrl-C or when the terminal fails.
  int next_byte() {
    while (used == bytes.size()) {
      if (interrupted_line) return -1;
      if (resized) {
        resized = 0;
        ::el_resize(editor);
        ::el_wset(editor, EL_REFRESH);
      }
      if (continued) {
        continued = 0;
        ::el_wset(editor, EL_PREP_TERM, 0);
        ::el_wset(editor, EL_PREP_TERM, 1);
        ::el_wset(editor, EL_REFRESH);
      }
      pollfd waiting[2] = {{STDIN_FILENO, POLLIN, 0}, {wake_up[0], POLLIN, 0}};
      if (::poll(waiting, 2, -1) < 0 && errno != EINTR) return -1;
      if (waiting[1].revents != 0) {
        char woken[16];
        while (::read(wake_up[0], woken, sizeof(woken)) > 0) continue;
      }
      if (interrupted_line || waiting[0].revents == 0) continue;
      char piece[1 << 16];
      const ssize_t got = ::read(STDIN_FILENO, piece, sizeof(piece));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return -1;  // the end, also when the terminal has gone
      bytes.assign(piece, static_cast<size_t>(got)), used = 0;
    }
    return static_cast<unsigned char>(bytes[used++]);
  }

  // A character may come in pieces; a byte that belongs to none stays what it is.
  static int read_character(EditLine* editor, wchar_t* character) {
    State& state = of(editor);
    const int lead = state.next_byte();
    if (lead < 0) return interrupted_line ? -1 : 0;
    std::string text(1, static_cast<char>(lead));
    const int length = base::utf8_length(static_cast<unsigned char>(lead));
    while (std::ssize(text) < length) {
      const int byte = state.next_byte();
      if (byte < 0) break;
      if ((byte & 0xc0) != 0x80) {
        --state.used;
        break;
      }
      text += static_cast<char>(byte);
    }
    const std::wstring wide = widened(text);
    *character = wide.front();
    if (wide.size() > 1) {  // no character: the bytes after the first come next, each on its own
      state.bytes.replace(0, state.used, text.substr(narrowed(wide.substr(0, 1)).size()));
      state.used = 0;
    }
    return 1;
  }

  static unsigned char paste(EditLine* editor, wint_t) {
    State& state = of(editor);
    std::string text;
    while (!text.ends_with(kPasteEnd)) {
      const int byte = state.next_byte();
      if (byte < 0) return CC_EOF;
      if (byte == 0) continue;  // no line can hold it
      text += static_cast<char>(byte == '\r' ? '\n' : byte);
    }
    text.resize(text.size() - kPasteEnd.size());
    while (text.ends_with("\n")) text.pop_back();  // a line copied whole is still the user's to send
    if (!text.empty()) ::el_winsertstr(editor, widened(text).c_str());
    return CC_REFRESH;
  }

  static unsigned char insert_given(EditLine* editor, wint_t) {
    State& state = of(editor);
    if (!state.given.empty()) ::el_winsertstr(editor, state.given.c_str());
    state.given.clear();
    return CC_REFRESH;
  }

  static unsigned char insert_newline(EditLine* editor, wint_t) {
    ::el_winsertstr(editor, L"\n");
    return CC_REFRESH;
  }

  static unsigned char insert_completion(EditLine* editor, wint_t) {
    State& state = of(editor);
    const LineInfoW* line = ::el_wline(editor);
    const std::string before =
        narrowed(std::wstring_view(line->buffer, static_cast<size_t>(line->cursor - line->buffer)));
    const Completion found = state.complete(before);
    if (found.choices.empty()) return CC_ERROR;
    std::string common = found.choices.front();
    for (const std::string& choice : found.choices) {
      const auto [a, b] = std::mismatch(common.begin(), common.end(), choice.begin(), choice.end());
      common.erase(a, common.end());
    }
    while (base::valid_utf8_bytes(common) < common.size()) common.pop_back();
    const std::string typed = before.substr(found.keep);
    if (common.size() > typed.size() && common.starts_with(typed)) {
      ::el_winsertstr(editor, widened(common.substr(typed.size())).c_str());
      return CC_REFRESH;
    }
    if (found.choices.size() == 1) return CC_ERROR;
    std::string list = "\n";
    for (const std::string& choice : found.choices) list += choice + "  ";
    print(list + "\n");
    return CC_REDISPLAY;
  }

  static wchar_t* show_prompt(EditLine* editor) { return of(editor).prompt.data(); }
};

bool LineEditor::possible() {
  const char* terminal = std::getenv("TERM");
  return stdin_is_terminal() && stdout_is_terminal() && terminal && *terminal && std::string_view(terminal) != "dumb";
}

LineEditor::LineEditor(ChatHistory& history, Completer complete)
    : state_(std::make_unique<State>(history, std::move(complete))) {
  use_utf8();
  if (::pipe2(wake_up, O_CLOEXEC | O_NONBLOCK) != 0)
    base::fail(base::ErrorKind::io, "terminal", "cannot be watched: {}", std::strerror(errno));
  State& state = *state_;
  ::tcgetattr(STDIN_FILENO, &before_editing);
  state.editor = ::el_init("coterie", stdin, stdout, stderr);
  state.lines = ::history_winit();
  if (!state.editor || !state.lines) base::fail(base::ErrorKind::io, "terminal", "cannot be set up for editing");
  HistEventW event;
  ::history_w(state.lines, &event, H_SETSIZE, static_cast<int>(ChatHistory::kEntries));
  for (const std::string& entry : history.entries()) ::history_w(state.lines, &event, H_ENTER, widened(entry).c_str());
  const auto add = [&](const wchar_t* name, const wchar_t* help, unsigned char (*function)(EditLine*, wint_t)) {
    ::el_wset(state.editor, EL_ADDFN, name, help, function);
  };
  ::el_wset(state.editor, EL_CLIENTDATA, static_cast<void*>(&state));
  ::el_wset(state.editor, EL_EDITOR, L"emacs");
  ::el_wset(state.editor, EL_SIGNAL, 0);
  ::el_wset(state.editor, EL_HIST, ::history_w, state.lines);
  ::el_wset(state.editor, EL_PROMPT_ESC, State::show_prompt, L'\1');
  ::el_wset(state.editor, EL_GETCFN, State::read_character);
  ::el_source(state.editor, nullptr);
  add(L"coterie-paste", L"Insert what the terminal pastes", State::paste);
  add(L"coterie-given", L"Insert the text to begin with", State::insert_given);
  add(L"coterie-newline", L"Insert a line break", State::insert_newline);
  add(L"coterie-complete", L"Complete commands and file names", State::insert_completion);
  state.bind();
  state.on_terminate.emplace(SIGTERM, on_end);
  state.on_hangup.emplace(SIGHUP, on_end);
  editing = 1;
  ::el_wset(state.editor, EL_PREP_TERM, 1);
  print(kPasteOn);
}

LineEditor::~LineEditor() {
  [[maybe_unused]] const ssize_t written = ::write(STDOUT_FILENO, kPasteOff.data(), kPasteOff.size());
  ::history_wend(state_->lines);
  ::el_end(state_->editor);
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_editing);
  editing = 0;
  for (int& end : wake_up) ::close(std::exchange(end, -1));
}

LineReader::Outcome LineEditor::next(std::string_view prompt, std::string_view given, std::string& line) {
  State& state = *state_;
  const Handler interrupt(SIGINT, on_interrupt), resize(SIGWINCH, on_resize), go_on(SIGCONT, on_continue);
  state.prompt = widened(prompt);
  state.given = widened(given);
  interrupted_line = 0;
  resized = 0;
  continued = 0;
  if (!given.empty()) state.bytes.insert(state.used, "\033[9977~");
  int count = 0;
  const wchar_t* const wide = ::el_wgets(state.editor, &count);
  ::el_wset(state.editor, EL_PREP_TERM, 1);
  if (interrupted_line) {
    print("^C\n");
    return LineReader::Outcome::interrupted;
  }
  if (!wide || count <= 0) {
    print("\n");
    return LineReader::Outcome::end;
  }
  line = narrowed(std::wstring_view(wide, static_cast<size_t>(count)));
  if (line.ends_with("\n")) line.pop_back();
  if (line.find_first_not_of(" \t\n") != std::string::npos && base::valid_utf8_bytes(line) == line.size()) {
    HistEventW event;
    ::history_w(state.lines, &event, H_ENTER, widened(line).c_str());
    state.history.add(line);
  }
  return LineReader::Outcome::line;
}

}  // namespace coterie::cli
