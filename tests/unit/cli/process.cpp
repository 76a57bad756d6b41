#include "unit/cli/process.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "support/places.h"
#include "support/temp_folder.h"

namespace coterie::cli::test {

namespace {
std::string contents(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}
}  // namespace

Outcome run(const std::string& program, const std::vector<std::string>& arguments, const Surroundings& with) {
  // Files instead of pipes: nothing can fill up and wait.
  TempFolder folder;
  const std::string in = folder.write("in", with.input), out = folder / "out", err = folder / "err";
  const std::string path = tests::build_folder() + "/" + program;
  const pid_t child = ::fork();
  if (child == 0) {
    if (!std::freopen(in.c_str(), "rb", stdin) || !std::freopen(out.c_str(), "wb", stdout) ||
        !std::freopen(err.c_str(), "wb", stderr))
      ::_exit(126);
    if (with.largest_file > 0) {
      const auto most = static_cast<rlim_t>(with.largest_file);
      const rlimit limit = {most, most};
      ::signal(SIGXFSZ, SIG_IGN);  // a write fails instead
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    for (const auto& [name, value] : with.variables) ::setenv(name.c_str(), value.c_str(), 1);
    std::vector<char*> argv = {const_cast<char*>(path.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execv(path.c_str(), argv.data());
    ::_exit(127);
  }
  if (with.interrupt) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    std::error_code absent;
    while (std::chrono::steady_clock::now() < until) {
      const auto size = std::filesystem::file_size(out, absent);
      if (!absent && size > 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ::kill(child, SIGINT);
  }
  if (with.kill_after_ms > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(with.kill_after_ms));
    ::kill(child, SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(out), contents(err)};
}

}  // namespace coterie::cli::test
