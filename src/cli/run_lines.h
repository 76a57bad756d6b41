#pragma once

#include <cstdint>
#include <string>

#include "cli/constraint_options.h"
#include "cli/options.h"
#include "cli/speculate_options.h"

namespace coterie::cli {

struct LinesOptions {
  ModelOptions model;
  SamplingOptions sampling;
  ConstraintOptions constraint;
  SpeculateOptions speculate;
  std::string in, out;  // files; "-": standard input; an empty `out`: standard output
  std::string system, chat_template;
  int64_t batch = 8;
  bool chat = false, raw = false, quiet = false;
};

/// `coterie run --jsonl`: answers each line of `in`, a JSON object with "prompt" or "messages" (and perhaps "id"), up
/// to `batch` of them side by side. Writes a JSON object a line, in the order of the prompts, each with one write:
/// index, id, text, finish, seed, counts, and of a line that cannot be answered its error. Lines that `out` holds
/// already are not answered again; a last one that was cut is taken away. Refuses, naming the line, an `out` that other
/// prompts, options or seeds have made. Returns 2 when a line could not be answered, 130 when interrupted.
int run_lines(LinesOptions options);

}  // namespace coterie::cli
