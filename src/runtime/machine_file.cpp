#include "runtime/machine_file.h"

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/error.h"

namespace coterie::runtime {

namespace {

namespace fs = std::filesystem;

base::Json read_file(const std::optional<fs::path>& path) {
  std::error_code ignored;
  if (!path || !fs::exists(*path, ignored)) return base::Json::object();
  try {
    base::Json file = base::read_json(*path);
    return file.is_object() ? file : base::Json::object();
  } catch (const base::Error&) {
    return base::Json::object();  // damaged: measured and written anew
  }
}

}  // namespace

std::optional<fs::path> machine_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache && *cache) return fs::path(cache) / "coterie" / "machine.json";
  if (home && *home) return fs::path(home) / ".cache" / "coterie" / "machine.json";
  return {};
}

base::Json recall(const std::string& name) {
  const base::Json file = read_file(machine_file());
  const auto entry = file.find(name);
  return entry == file.end() ? base::Json() : *entry;
}

void remember(const std::string& name, const base::Json& entry) {
  const std::optional<fs::path> path = machine_file();
  if (!path) return;
  base::Json file = read_file(path);
  file[name] = entry;
  try {
    // A home that does not exist is not made: HOME may name a folder that nobody has.
    const fs::path cache = path->parent_path().parent_path();
    std::error_code ignored;
    if (!fs::exists(cache.parent_path(), ignored)) return;
    fs::create_directories(path->parent_path());
    base::AtomicFile out(*path, base::Existing::replaced);
    out.write(file.dump(2) + "\n");
    out.commit();
  } catch (const std::exception&) {
    // A read-only home: measured again next time.
  }
}

}  // namespace coterie::runtime
