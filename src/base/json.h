#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

// Compiled once, in json.cpp, and not in each file that includes this.
extern template class nlohmann::basic_json<>;

namespace coterie::base {

using Json = nlohmann::json;

/// What to do with a key that an object has twice. Most JSON libraries keep the last; where that would hide something
/// (two places for one tensor), refuse.
enum class DuplicateKeys { keep_last, refuse };

/// Parses untrusted text: throws bad_input with `where`, the line and the column. Nesting deeper than 200 is refused.
/// Infinity, -Infinity and NaN, which Python writes and JSON forbids, become {"__float__": "Infinity"} and so on, the
/// form in which transformers writes them now.
Json parse_json(std::string_view text, std::string_view where, DuplicateKeys duplicates = DuplicateKeys::keep_last);
Json read_json(const std::filesystem::path& path, DuplicateKeys duplicates = DuplicateKeys::keep_last);

/// Reads the keys of one JSON object and remembers which were read, so that what nobody read can be refused or warned
/// about instead of ignored. Python's infinities and NaN (see parse_json) are understood where a number is asked for.
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

  /// Throws bad_input for the first key that is not among those that are known, with the one it resembles. For what
  /// people write by hand, before any of it is read: otherwise a misspelt key that something needs would be called
  /// missing. refuse_unread after reading says that each known key was honoured.
  void expect(const std::vector<std::string>& known) const;

  /// Marks keys as known to change nothing here ("initializer_range", "use_cache").
  void inert(std::initializer_list<std::string_view> keys);
  /// Keys that nothing has read or marked, in alphabetical order.
  std::vector<std::string> unread() const;
  /// Throws bad_input when there are any: names the first, and which of the keys that were read it resembles.
  void refuse_unread() const;
  /// did_you_mean of a key among those that were read.
  std::string meant(std::string_view key) const;

  const std::string& where() const { return where_; }

 private:
  const Json* find(std::string_view key);
  [[noreturn]] void refuse(const std::string& key, const std::vector<std::string>& known) const;
  [[noreturn]] void wrong_type(std::string_view key, std::string_view expected, const Json& found) const;

  const Json& object_;
  std::string where_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace coterie::base
