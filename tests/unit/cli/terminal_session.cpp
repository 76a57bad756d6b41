#include "unit/cli/terminal_session.h"
#include "support/places.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace coterie::cli::test {

namespace {
constexpr std::chrono::seconds kPatience(20);
}

TerminalSession::TerminalSession(const std::vector<std::string>& arguments, const std::filesystem::path& state) {
  winsize size{24, 80, 0, 0};
  const std::string path = tests::build_folder() + "/coterie";
  child_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
  if (child_ == 0) {
    ::setenv("TERM", "xterm", 1);
    ::setenv("LC_ALL", "C.UTF-8", 1);
    ::setenv("NO_COLOR", "1", 1);
    ::setenv("XDG_STATE_HOME", state.c_str(), 1);
    ::setenv("HOME", state.c_str(), 1);
    ::unsetenv("COTERIE_HISTORY");
    std::vector<char*> argv = {const_cast<char*>(path.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execv(path.c_str(), argv.data());
    ::_exit(127);
  }
  ::fcntl(terminal_, F_SETFL, ::fcntl(terminal_, F_GETFL) | O_NONBLOCK);
}

TerminalSession::~TerminalSession() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  ::close(terminal_);
}

bool TerminalSession::read_some(int milliseconds) {
  pollfd wanted{terminal_, POLLIN, 0};
  if (::poll(&wanted, 1, milliseconds) <= 0) return true;
  char piece[1 << 14];
  const ssize_t got = ::read(terminal_, piece, sizeof(piece));
  if (got <= 0) return false;  // the program has ended
  shown_.append(piece, static_cast<size_t>(got));
  return true;
}

void TerminalSession::type(std::string_view keys) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!keys.empty() && std::chrono::steady_clock::now() < until) {
    const ssize_t put = ::write(terminal_, keys.data(), std::min<size_t>(keys.size(), 1024));
    if (put > 0) keys.remove_prefix(static_cast<size_t>(put));
    if (!read_some(put > 0 ? 0 : 5)) break;
  }
  EXPECT_TRUE(keys.empty()) << keys.size() << " bytes were not taken";
}

void TerminalSession::signal(int number) const { ::kill(child_, number); }

void TerminalSession::resize(int columns, int rows) {
  const winsize size{static_cast<unsigned short>(rows), static_cast<unsigned short>(columns), 0, 0};
  ::ioctl(terminal_, TIOCSWINSZ, &size);
}

std::string TerminalSession::wait_for(std::string_view words) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  size_t at = std::string::npos;
  while ((at = shown_.find(words)) == std::string::npos && std::chrono::steady_clock::now() < until)
    if (!read_some(50)) break;
  if (at == std::string::npos) at = shown_.find(words);
  EXPECT_NE(at, std::string::npos) << "not shown: " << words << "\nshown: " << shown_.substr(0, 4000);
  const size_t end = at == std::string::npos ? shown_.size() : at + words.size();
  const std::string seen = shown_.substr(0, end);
  shown_.erase(0, end);
  return seen;
}

int TerminalSession::wait() {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  int status = 0;
  while (std::chrono::steady_clock::now() < until) {
    if (::waitpid(child_, &status, WNOHANG) == child_) {
      child_ = -1;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (!read_some(5)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ADD_FAILURE() << "the program did not end; shown: " << shown_;
  return -1;
}

}  // namespace coterie::cli::test
