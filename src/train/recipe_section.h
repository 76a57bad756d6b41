#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace coterie::train {

/// One of the sections of a recipe; absent is as good as empty. A key that is not `known` is refused before any is
/// read.
class Section {
 public:
  Section(base::JsonReader& parent, const std::string& name, const std::vector<std::string>& known)
      : json_(parent.object(name) ? *parent.object(name) : base::Json::object()),
        keys(json_, parent.where() + ": " + name) {
    keys.expect(known);
  }

 private:
  base::Json json_;

 public:
  base::JsonReader keys;

  const std::string& where() const { return keys.where(); }

  int64_t count(std::string_view key, int64_t least, std::optional<int64_t> otherwise = {}) {
    const int64_t value = keys.integer(key, otherwise);
    if (value < least)
      base::fail(base::ErrorKind::bad_input, where(), "{} is {}, expected {} or more", key, value, least);
    return value;
  }
  double number(std::string_view key, double least, double most, std::optional<double> otherwise = {}) {
    const double value = keys.number(key, otherwise);
    if (!(value >= least && value <= most))
      base::fail(base::ErrorKind::bad_input, where(), "{} is {}, expected {} to {}", key, value, least, most);
    return value;
  }
  /// What one of the words stands for; `otherwise` is the word when the key is absent.
  template <typename T>
  T choice(std::string_view key, std::initializer_list<std::pair<std::string_view, T>> words,
           std::string_view otherwise) {
    const std::string value = keys.string(key, std::string(otherwise));
    std::string all;
    for (const auto& [word, meaning] : words) {
      if (value == word) return meaning;
      all += (all.empty() ? "" : ", ") + std::string(word);
    }
    base::fail(base::ErrorKind::bad_input, where(), "{} is \"{}\", expected one of {}", key, value, all);
  }
  /// Refuses a key that would have no effect.
  void refuse(std::string_view key, std::string_view why) {
    if (keys.has(key)) base::fail(base::ErrorKind::bad_input, where(), "{} has no effect {}: remove it", key, why);
  }
  /// A word or a list of them.
  std::vector<std::string> list(std::string_view key) {
    const base::Json* value = keys.value(key);
    if (value && value->is_string()) return {value->get<std::string>()};
    return keys.strings(key);
  }
};

}  // namespace coterie::train
