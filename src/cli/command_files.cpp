#include "cli/command_files.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <regex>
#include <utility>

#include "base/error.h"
#include "base/leftovers.h"
#include "checkpoint/split_name.h"
#include "cli/help.h"
#include "cli/source_rule.h"
#include "cli/terminal.h"
#include "families/ensemble/gate.h"
#include "lens/report.h"

namespace coterie::cli {

namespace {

namespace fs = std::filesystem;
using base::ErrorKind;

constexpr std::string_view kReads[] = {"reads path",  "reads text",  "reads adapter",
                                       "reads named", "reads draft", "reads run"};
constexpr std::string_view kWrites[] = {"writes path", "writes page", "writes tokenizer"};
constexpr std::string_view kMayBeEmpty = "may be empty";
// Of a folder that is read; none that holds a model or a corpus has so many.
constexpr int kMostFiles = 200'000;

CLI::Validator mark(std::string_view name) {
  return CLI::Validator([](std::string&) { return std::string(); }, "", std::string(name));
}

bool has_mark(const CLI::Option& option, std::string_view name) {
  try {
    return const_cast<CLI::Option&>(option).get_validator(std::string(name)) != nullptr;
  } catch (const CLI::OptionNotFound&) {
    return false;
  }
}

template <typename Kind, size_t count>
std::optional<Kind> marked(const CLI::Option& option, const std::string_view (&names)[count]) {
  for (size_t i = 0; i < count; ++i)
    if (has_mark(option, names[i])) return static_cast<Kind>(i);
  return {};
}

std::string shown(const CLI::Option& option) {
  const OptionWords words = words_of(option);
  if (!words.position.empty()) return words.position;
  for (const std::string& name : words.names)
    if (name.starts_with("--")) return name;
  return words.names.empty() ? option.get_name() : words.names.front();
}

fs::path path_in(std::string value, Reads how) {
  switch (how) {
    case Reads::text: return value.starts_with("@") ? value.substr(1) : "";
    case Reads::draft: return value.starts_with("draft:") ? value.substr(6) : "";
    case Reads::named:
      if (const size_t equals = value.find('='); equals != std::string::npos) value.erase(0, equals + 1);
      [[fallthrough]];
    case Reads::adapter: {
      const size_t colon = value.rfind(':');
      std::error_code absent;
      if (colon != std::string::npos && colon > 0 && !fs::exists(value, absent)) value.erase(colon);
      return value;
    }
    default: return value;
  }
}

struct Written {
  std::string option;
  fs::path path;
};

std::vector<Written> written_by(const CLI::App& command) {
  std::vector<Written> written;
  for (const CLI::Option* option : command.get_options()) {
    const auto what = marked<Writes>(*option, kWrites);
    if (!what) continue;
    // The last of a repeated option counts.
    const fs::path path = option->results().empty() ? option->get_default_str() : option->results().back();
    if (path.empty()) continue;
    if (*what == Writes::tokenizer) {
      for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
        written.push_back({shown(*option), path / name});
      continue;
    }
    written.push_back({shown(*option), path});
    if (*what == Writes::page) written.push_back({shown(*option), fs::path(path).replace_extension(".json")});
  }
  return written;
}

using Id = std::pair<dev_t, ino_t>;

/// The file that a path leads to; nothing where that is not one.
std::optional<Id> file_at(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  return Id{status.st_dev, status.st_ino};
}

/// Whether the file `id` is among what is read at `path`.
bool is_read(const fs::path& path, Reads how, const Id& id, int depth = 0) {
  std::error_code code;
  if (!fs::is_directory(path, code)) {
    if (file_at(path) == id) return true;
    if (const auto split = checkpoint::SplitName::parse(path))
      for (int part = 1; part <= split->count; ++part)
        if (file_at(split->part(part)) == id) return true;
    return false;
  }
  int files = 0;
  for (fs::recursive_directory_iterator at(path, fs::directory_options::skip_permission_denied, code), end;
       !code && at != end && files < kMostFiles; at.increment(code), ++files)
    if (file_at(at->path()) == id && !(how == Reads::run && lens::is_training_report(at->path()))) return true;
  if (depth > 0 || !families::is_ensemble(path)) return false;
  try {
    for (const fs::path& model : families::read_gate(path).models)
      if (is_read(path / model, Reads::path, id, depth + 1)) return true;
  } catch (const base::Error&) {  // the command says what is wrong with it
  }
  return false;
}

void refuse_empty_values(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options()) {
    const std::vector<std::string>& values = option->results();
    if (std::find(values.begin(), values.end(), "") == values.end() || option->get_items_expected_max() == 0 ||
        has_mark(*option, kMayBeEmpty))
      continue;
    const std::string value = words_of(*option).value;
    throw base::Error(ErrorKind::bad_input, shown(*option),
                      value.empty() || value == shown(*option) ? "is empty, expected a value"
                                                               : fmt::format("is empty, expected {}", value));
  }
}

}  // namespace

CLI::Validator reads(Reads how) { return mark(kReads[static_cast<size_t>(how)]); }
CLI::Validator writes(Writes what) { return mark(kWrites[static_cast<size_t>(what)]); }
CLI::Validator may_be_empty() { return mark(kMayBeEmpty); }

void refuse_source(const CLI::App& command, const fs::path& out, const std::string& instead) {
  std::error_code code;
  const std::optional<Id> id = file_at(out);
  if (!id && !fs::is_directory(out, code)) return;
  for (const CLI::Option* option : command.get_options()) {
    const auto how = marked<Reads>(*option, kReads);
    if (!how) continue;
    for (const std::string& value : option->results()) {
      const fs::path path = path_in(value, *how);
      if (path.empty() || !(id ? is_read(path, *how, *id) : fs::equivalent(path, out, code))) continue;
      const std::string place =
          id && fs::is_directory(path, code) ? fmt::format("lies in {}, which ", path.string()) : "";
      throw base::Error(ErrorKind::bad_input, out.string(),
                        fmt::format("{}is read as {}: a source is never overwritten", place, shown(*option)), instead);
    }
  }
}

void check_files(const CLI::App& command) {
  refuse_empty_values(command);
  const std::vector<Written> written = written_by(command);
  for (const Written& out : written)
    refuse_source(command, out.path, fmt::format("choose another name for {}", out.option));
  for (const Written& out : written)
    for (const fs::path& left : base::remove_leftovers(out.path))
      print_note(fmt::format("{} is removed: a process that was killed left it", left.string()));
}

std::vector<std::string> unmarked_options(const CLI::App& app) {
  // The words that --help has for values and positions.
  static const std::regex files(
      "(NAME=)?(FILE|FOLDER|DIR|PATH|MODEL|OUT|RUN|RECIPE|TRACE|DENSE|ADAPTER|IDS|REPORT)\\b.*|draft:.*|.*MODEL");
  std::vector<std::string> unmarked;
  for (const CLI::App* command : commands_of(app)) {
    for (const CLI::Option* option : command->get_options()) {
      const OptionWords words = words_of(*option);
      if (!std::regex_match(words.value, files) && !std::regex_match(words.position, files)) continue;
      if (!marked<Reads>(*option, kReads) && !marked<Writes>(*option, kWrites))
        unmarked.push_back(command->get_name() + " " + shown(*option));
    }
    for (std::string& below : unmarked_options(*command)) unmarked.push_back(std::move(below));
  }
  return unmarked;
}

}  // namespace coterie::cli
