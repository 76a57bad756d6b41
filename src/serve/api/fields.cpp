#include "serve/api/fields.h"

#include <fmt/format.h>

#include <cmath>

#include "base/nearest.h"
#include "serve/api/api_error.h"

namespace coterie::serve {

namespace {

constexpr size_t kShown = 60;

std::string shown(const base::Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  std::string text = dumped(value);
  if (text.size() > kShown) text = text.substr(0, kShown) + "…";
  return text;
}

std::string range(double least, double most) {
  if (std::isinf(most) || most >= 9e15) return fmt::format("at least {}", least);
  return fmt::format("from {} to {}", least, most);
}

thread_local FieldWatch* watch = nullptr;

}  // namespace

FieldWatch::FieldWatch() { watch = this; }
FieldWatch::~FieldWatch() { watch = nullptr; }

Fields::Fields(const base::Json& object, Made) : Fields(object) { made_ = true; }

void Fields::note(std::string_view name) {
  read_.emplace(name);
  if (watch && path_.empty() && !made_) watch->names.emplace(name);
}

Fields::Fields(const base::Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object())
    throw ApiError(
        400, fmt::format("{}: expected an object, found {}", path_.empty() ? "the body" : path_, shown(object)), path_);
}

void Fields::wrong(std::string_view name, std::string_view expected) const {
  const auto found = object_.find(name);
  throw ApiError(400,
                 fmt::format("{}{}: expected {}, found {}", path_, name, expected,
                             found == object_.end() ? "nothing" : shown(*found)),
                 path_ + std::string(name));
}

const base::Json* Fields::find(std::string_view name) {
  note(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool Fields::has(std::string_view name) const {
  const auto found = object_.find(name);
  return found != object_.end() && !found->is_null();
}

const base::Json* Fields::value(std::string_view name) { return find(name); }

std::optional<int64_t> Fields::integer(std::string_view name, int64_t least, int64_t most) {
  const base::Json* const found = find(name);
  if (!found) return {};
  // Some clients send whole numbers as 16.0.
  const bool whole = found->is_number_integer() ||
                     (found->is_number_float() && std::floor(found->get<double>()) == found->get<double>() &&
                      std::abs(found->get<double>()) < 9e15);
  const std::string expected =
      fmt::format("a whole number {}", range(static_cast<double>(least), static_cast<double>(most)));
  if (!whole || (found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX)) wrong(name, expected);
  const int64_t value = found->get<int64_t>();
  if (value < least || value > most) wrong(name, expected);
  return value;
}

std::optional<double> Fields::number(std::string_view name, double least, double most) {
  const base::Json* const found = find(name);
  if (!found) return {};
  const std::string expected = fmt::format("a number {}", range(least, most));
  if (!found->is_number()) wrong(name, expected);
  const auto value = found->get<double>();
  if (!(value >= least && value <= most)) wrong(name, expected);
  return value;
}

std::optional<bool> Fields::boolean(std::string_view name) {
  const base::Json* const found = find(name);
  if (!found) return {};
  if (!found->is_boolean()) wrong(name, "true or false");
  return found->get<bool>();
}

std::optional<std::string> Fields::string(std::string_view name) {
  const base::Json* const found = find(name);
  if (!found) return {};
  if (!found->is_string()) wrong(name, "a string");
  return found->get<std::string>();
}

std::optional<std::string> Fields::one_of(std::string_view name, std::initializer_list<std::string_view> words) {
  const base::Json* const found = find(name);
  if (!found) return {};
  if (found->is_string())
    for (const std::string_view word : words)
      if (found->get_ref<const std::string&>() == word) return std::string(word);
  wrong(name, fmt::format("one of {}", fmt::join(words, ", ")));
}

std::vector<std::string> Fields::strings(std::string_view name) {
  const base::Json* const found = find(name);
  if (!found) return {};
  if (found->is_string()) return {found->get<std::string>()};
  std::vector<std::string> texts;
  if (!found->is_array()) wrong(name, "a string or an array of strings");
  for (const base::Json& each : *found) {
    if (!each.is_string()) wrong(name, "a string or an array of strings");
    texts.push_back(each.get<std::string>());
  }
  return texts;
}

const base::Json* Fields::array(std::string_view name) {
  const base::Json* const found = find(name);
  if (found && !found->is_array()) wrong(name, "an array");
  return found;
}

const base::Json* Fields::object(std::string_view name) {
  const base::Json* const found = find(name);
  if (found && !found->is_object()) wrong(name, "an object");
  return found;
}

void Fields::accept(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) note(name);
}

void Fields::accept(std::span<const std::string_view> names) {
  for (const std::string_view name : names) note(name);
}

void Fields::refuse(std::string_view name, std::string_view why, const base::Json& harmless) {
  const base::Json* const found = find(name);
  if (watch && path_.empty() && !made_) watch->refused.emplace(name);
  if (!found || *found == harmless) return;
  throw ApiError(400, fmt::format("{}{}: {}", path_, name, why), path_ + std::string(name), "unsupported_parameter");
}

std::vector<std::string> Fields::refuse_unknown(bool lenient) const {
  std::vector<std::string> unknown;
  for (const auto& item : object_.items())
    if (read_.find(item.key()) == read_.end()) unknown.push_back(path_ + item.key());
  if (unknown.empty() || lenient) return unknown;
  std::vector<std::string> known(read_.begin(), read_.end());
  const std::string near = base::did_you_mean(unknown.front().substr(path_.size()), known);
  throw ApiError(400,
                 fmt::format("{} not known here: {}{}", unknown.size() == 1 ? "this field is" : "these fields are",
                             fmt::join(unknown, ", "), near.empty() ? "" : " (" + near + ")"),
                 unknown.front(), "unknown_parameter");
}

}  // namespace coterie::serve
