#include "cli/terminal.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "base/error.h"

namespace coterie::cli {

namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set in a signal handler");
struct sigaction before_interrupt, before_terminate;

std::atomic<bool> announced{false};
std::atomic<int> last_signal{SIGINT};
static_assert(std::atomic<int>::is_always_lock_free, "set in a signal handler");

void on_interrupt(int number) {
  constexpr char kStopping[] = "stopping …\n";
  last_signal.store(number, std::memory_order_relaxed);
  const bool again = interrupted.exchange(true, std::memory_order_relaxed);
  if (again && number == SIGTERM) {  // whoever sends it twice means it
    ::signal(SIGTERM, SIG_DFL);
    ::raise(SIGTERM);
  }
  if (!again && announced.load(std::memory_order_relaxed)) [[maybe_unused]]
    const ssize_t written = ::write(STDERR_FILENO, kStopping, sizeof(kStopping) - 1);
}

bool colours() {
  const char* no = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return !(no && *no) && !(terminal && std::string_view(terminal) == "dumb");
}

std::string coloured(std::string_view text, Style style) {
  static constexpr std::string_view codes[] = {"1", "2", "31", "32", "36"};
  return fmt::format("\033[{}m{}\033[0m", codes[static_cast<int>(style)], text);
}

// File names and metadata may hold anything; a terminal must not obey it.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}

void write_error(const std::string& text) {
  std::fflush(stdout);
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

bool stdout_is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }
bool stdin_is_terminal() { return ::isatty(STDIN_FILENO) == 1; }

std::string styled(std::string_view text, Style style) {
  return stdout_is_terminal() && colours() ? coloured(text, style) : std::string(text);
}
std::string on_colour(std::string_view text, int64_t number) {
  if (!stdout_is_terminal() || !colours()) return std::string(text);
  // The dark ones of the cube of 6 x 6 x 6 colours, on which white is read: neighbours are far apart.
  static constexpr int kGrounds[] = {18, 52, 22, 54, 58, 23,  88, 25, 64, 90, 29,  94,
                                     19, 53, 28, 89, 24, 100, 55, 95, 30, 61, 130, 65};
  const auto size = static_cast<int64_t>(std::size(kGrounds));
  return fmt::format("\033[48;5;{}m\033[38;5;231m{}\033[0m", kGrounds[number % size], text);
}

int64_t terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string styled_error(std::string_view text, Style style) {
  return stderr_is_terminal() && colours() ? coloured(text, style) : std::string(text);
}

void print_error(std::string_view message, std::string_view hint) {
  std::string text = fmt::format("coterie: {} {}\n", styled_error("error:", Style::red), printable(message));
  if (!hint.empty()) text += fmt::format("  {} {}\n", styled_error("hint:", Style::cyan), printable(hint));
  write_error(text);
}

void print_warning(std::string_view message) {
  write_error(fmt::format("coterie: {} {}\n", styled_error("warning:", Style::bold), printable(message)));
}

void print_note(std::string_view text) { write_error(styled_error(printable(text), Style::dim) + "\n"); }

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    base::fail(base::ErrorKind::io, "standard output", "cannot be written: {}", std::strerror(errno));
}

void flush_output() { print(""); }

void Progress::show(std::string_view text) {
  if (!stderr_is_terminal()) return;
  write_error(fmt::format("\r\033[K{}", styled_error(text, Style::dim)));
  shown_ = true;
}

void Progress::clear() {
  if (shown_) write_error("\r\033[K");
  shown_ = false;
}

int interrupted_code() { return 128 + last_signal.load(); }

InterruptFlag::InterruptFlag() {
  interrupted = false, announced = false;
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // no SA_RESTART: a read at the prompt comes back
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &before_interrupt);
  // What a time limit or a scheduler sends: as Ctrl-C, so that nothing half-written stays and training can be resumed.
  ::sigaction(SIGTERM, &action, &before_terminate);
}

InterruptFlag::~InterruptFlag() {
  ::sigaction(SIGINT, &before_interrupt, nullptr);
  ::sigaction(SIGTERM, &before_terminate, nullptr);
}

const std::atomic<bool>& InterruptFlag::flag() const { return interrupted; }
void InterruptFlag::lower() { interrupted = false; }
void InterruptFlag::announce(bool wanted) { announced = wanted; }

}  // namespace coterie::cli
