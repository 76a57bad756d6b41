#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace coterie::serve {

/// While it lives, the names of all fields that the bodies of requests are asked for on this thread: what the API's
/// description is checked against.
struct FieldWatch {
  FieldWatch();
  ~FieldWatch();
  FieldWatch(const FieldWatch&) = delete;
  FieldWatch& operator=(const FieldWatch&) = delete;
  std::set<std::string, std::less<>> names, refused;  // those that are refused are among the names
};

/// Reads the fields of a request's JSON object, and remembers which were read: what nobody read is refused by name.
/// null counts as absent. All throw ApiError 400 that names the field, what was expected and what was found.
class Fields {
 public:
  /// `path` stands before the names in messages: "stream_options.".
  explicit Fields(const base::Json& object, std::string path = "");
  /// Of an object that was made out of a body: no FieldWatch hears of it.
  struct Made {};
  Fields(const base::Json& object, Made);

  bool has(std::string_view name) const;  // present and not null; does not count as reading
  /// Any value, or null; counts as read.
  const base::Json* value(std::string_view name);
  std::optional<int64_t> integer(std::string_view name, int64_t least, int64_t most);
  std::optional<double> number(std::string_view name, double least, double most);
  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> string(std::string_view name);
  std::optional<std::string> one_of(std::string_view name, std::initializer_list<std::string_view> words);
  /// A string or a list of strings.
  std::vector<std::string> strings(std::string_view name);
  const base::Json* array(std::string_view name);
  const base::Json* object(std::string_view name);

  /// Fields of the API that cannot change an answer here: accepted as they are.
  void accept(std::initializer_list<std::string_view> names);
  void accept(std::span<const std::string_view> names);
  /// A field of the API that would change the answer and is not computed here: refused when present, unless it has the
  /// value that changes nothing.
  void refuse(std::string_view name, std::string_view why, const base::Json& harmless = nullptr);
  /// Refuses fields that were not read, naming them; `lenient`: returns them instead.
  std::vector<std::string> refuse_unknown(bool lenient) const;

  [[noreturn]] void wrong(std::string_view name, std::string_view expected) const;

 private:
  const base::Json* find(std::string_view name);

  void note(std::string_view name);

  const base::Json& object_;
  std::string path_;
  bool made_ = false;
  std::set<std::string, std::less<>> read_;
};

}  // namespace coterie::serve
