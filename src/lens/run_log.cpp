#include "lens/run_log.h"

#include <algorithm>
#include <map>

#include "base/atomic_file.h"
#include "base/error.h"

namespace coterie::lens {

using base::ErrorKind;
using base::Json;

namespace {

// Events of a run that was taken up again after `step`.
void drop_after(std::vector<Json>& events, int64_t step) {
  std::erase_if(events, [step](const Json& event) { return event["step"].get<int64_t>() > step; });
}

void add(RunLog& log, Json event, const std::string& where) {
  base::JsonReader reader(event, where);
  const std::string kind = reader.string("kind");
  if (kind == "start") {
    log.start = std::move(event);
    return;
  }
  if (kind == "end") {
    log.ended = true;
    return;
  }
  const int64_t step = reader.integer("step");
  if (kind == "resume") {
    log.ended = false;
    if (event.contains("steps")) log.start["steps"] = event["steps"];  // the run was made longer or shorter
    for (std::vector<Json>* events : {&log.steps, &log.routers, &log.evaluations}) drop_after(*events, step);
  } else if (kind == "step") {
    log.steps.push_back(std::move(event));
  } else if (kind == "routers") {
    log.routers.push_back(std::move(event));
  } else if (kind == "evaluation") {
    // The last one is done again when its run was killed before it said that it ended.
    if (!log.evaluations.empty() && log.evaluations.back()["step"] == step) log.evaluations.pop_back();
    log.evaluations.push_back(std::move(event));
  } else {
    base::fail(ErrorKind::bad_input, where, "\"{}\" is not a kind of event", kind);
  }
}

}  // namespace

RunLog read_run_log(const std::filesystem::path& run) {
  const bool folder = std::filesystem::is_directory(run);
  const std::filesystem::path path = folder ? run / "log.jsonl" : run;
  if (!std::filesystem::exists(path))
    throw base::Error(ErrorKind::not_found, path.string(), "there is no log of a training run",
                      "expected the folder that coterie train wrote into, or its log.jsonl");
  const std::string text = base::read_text(path, int64_t{1} << 30);
  RunLog log;
  // For "log.jsonl" alone it is the current folder.
  const std::filesystem::path named =
      std::filesystem::absolute(folder ? run : std::filesystem::absolute(run).parent_path());
  log.folder = (named.has_filename() ? named : named.parent_path()).lexically_normal();
  log.name = log.folder.filename().string();
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // cut off
    const std::string where = fmt::format("{}: line {}", path.string(), ++number);
    Json event = base::parse_json(std::string_view(text).substr(begin, end - begin), where);
    if (!event.is_object()) base::fail(ErrorKind::bad_input, where, "expected an object, found {}", event.type_name());
    add(log, std::move(event), where);
    begin = end + 1;
  }
  if (log.start.empty()) base::fail(ErrorKind::bad_input, path.string(), "does not say how the run began");
  return log;
}

void tell_apart(std::span<RunLog> runs) {
  // The folder above what the name says already. A folder that is given twice stays double.
  const auto above = [](const RunLog& run) {
    std::filesystem::path at = run.folder.parent_path();
    for (const char c : run.name)
      if (c == '/') at = at.parent_path();
    return at.filename().string();
  };
  for (bool again = true; again;) {
    again = false;
    std::map<std::string, std::vector<RunLog*>> by_name;
    for (RunLog& run : runs) by_name[run.name].push_back(&run);
    for (const auto& [name, same] : by_name) {
      const bool differ = std::any_of(
          same.begin(), same.end(), [first = same.front()](const RunLog* run) { return run->folder != first->folder; });
      for (RunLog* run : same)
        if (const std::string folder = above(*run); differ && !folder.empty())
          run->name = folder + "/" + name, again = true;
    }
  }
}

std::vector<std::filesystem::path> runs_in(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> runs;
  if (std::filesystem::is_directory(path) && !std::filesystem::exists(path / "log.jsonl"))
    for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(path))
      if (std::filesystem::exists(entry.path() / "log.jsonl")) runs.push_back(entry.path());
  std::sort(runs.begin(), runs.end());
  if (runs.empty()) runs.push_back(path);
  return runs;
}

}  // namespace coterie::lens
