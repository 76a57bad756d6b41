#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace coterie::base {

using Json = nlohmann::json;

/// Parses untrusted text: throws bad_input with `where`, the line and the column. Nesting deeper than 200 is refused.
Json parse_json(std::string_view text, std::string_view where);
Json read_json(const std::filesystem::path& path);

/// Reads the keys of one JSON object and remembers which were read, so that what nobody read can be refused or warned
/// about instead of ignored. Python's infinities, written {"__float__": "Infinity"}, are understood.
///
///   JsonReader config(json, "model/config.json");
///   int64_t width = config.integer("hidden_size");
///   double theta = config.number("rope_theta", 10000.0);
///   for (const std::string& key : config.unread()) …
class JsonReader {
 public:
  JsonReader(const Json& object, std::string where);

  bool has(std::string_view key) const;  // present and not null; does not count as reading

  // Throw not_found when the key is absent and no default is given, bad_input when it is of another type. null counts
  // as absent.
  int64_t integer(std::string_view key, std::optional<int64_t> otherwise = {});
  double number(std::string_view key, std::optional<double> otherwise = {});
  bool boolean(std::string_view key, std::optional<bool> otherwise = {});
  std::string string(std::string_view key, std::optional<std::string> otherwise = {});
  std::vector<int64_t> integers(std::string_view key);
  std::vector<double> numbers(std::string_view key);
  std::vector<std::string> strings(std::string_view key);
  /// A nested object, or null.
  const Json* object(std::string_view key);
  /// Any value, or null; counts as read.
  const Json* value(std::string_view key);

  /// Marks keys as known to change nothing here ("initializer_range", "use_cache").
  void inert(std::initializer_list<std::string_view> keys);
  /// Keys that nothing has read or marked, in the order of the file.
  std::vector<std::string> unread() const;

  const std::string& where() const { return where_; }

 private:
  const Json* find(std::string_view key);
  [[noreturn]] void wrong_type(std::string_view key, std::string_view expected, const Json& found) const;

  const Json& object_;
  std::string where_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace coterie::base
