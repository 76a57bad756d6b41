#pragma once

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
  int interrupt_after_ms = 0;                         // sends SIGINT then; 0 = never
};

/// Runs a program of the build folder ("coterie", "example_hello") and waits for it.
Outcome run(const std::string& program, const std::vector<std::string>& arguments, const Surroundings& with = {});
inline Outcome coterie(const std::vector<std::string>& arguments, const Surroundings& with = {}) {
  return run("coterie", arguments, with);
}

}  // namespace coterie::cli::test
