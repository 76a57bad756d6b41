#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace coterie::cli::test {

struct Outcome {
  int code = -1;    // exit code, or 128 + the signal
  std::string out;  // standard output
  std::string err;
};

struct Surroundings {
  std::string input = {};                             // standard input
  std::map<std::string, std::string> variables = {};  // besides this process's
  bool interrupt = false;                             // sends SIGINT as soon as something is on standard output
  int kill_after_ms = 0;                              // sends SIGKILL then, if it still runs
  int64_t largest_file = 0;                           // bytes that it can write into one, as on a full disk; 0: any
};

/// Runs a program of the build folder ("coterie", "example_hello") and waits for it.
Outcome run(const std::string& program, const std::vector<std::string>& arguments, const Surroundings& with = {});
inline Outcome coterie(const std::vector<std::string>& arguments, const Surroundings& with = {}) {
  return run("coterie", arguments, with);
}

}  // namespace coterie::cli::test
