#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"

namespace coterie::lens {

/// What a training run wrote into its log.jsonl, one object a line with
/// a "kind" (start, step, routers, evaluation, resume, end).
struct RunLog {
  std::string name;              // of the run's folder
  std::filesystem::path folder;  // absolute
  base::Json start = base::Json::object();
  std::vector<base::Json> steps, routers, evaluations;
  bool ended = false;
};

/// Reads FOLDER/log.jsonl, or the file itself. After a resume, what an earlier attempt wrote for later steps is
/// dropped, and so is a last line that was cut off when the run was killed. Throws not_found without such a file, and
/// bad_input, naming the line, for one that is not a log of a run.
RunLog read_run_log(const std::filesystem::path& run);

/// Where several runs have folders of one name (seed-1/dense, seed-2/dense), puts as many of the folders above before
/// it as tell them apart.
void tell_apart(std::span<RunLog> runs);

/// The runs that a path stands for: itself; or, for a folder without a log.jsonl, those folders in it that have one
/// (the variants of a recipe), in alphabetical order. Itself too where there are none: read_run_log says what is
/// missing.
std::vector<std::filesystem::path> runs_in(const std::filesystem::path& path);

}  // namespace coterie::lens
