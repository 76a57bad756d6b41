#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/atomic_file.h"
#include "base/nearest.h"

template class nlohmann::basic_json<>;

namespace coterie::base {

namespace {

constexpr int kMaxDepth = 200;

// Walks the text outside strings. A bomb of brackets must be refused before it is built, since a tree is destroyed
// recursively. Returns whether Python's number words occur.
bool check_depth(std::string_view text, std::string_view where) {
  int depth = 0;
  bool in_string = false, python = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{')
      if (++depth > kMaxDepth) fail(ErrorKind::bad_input, where, "JSON nested deeper than {} at byte {}", kMaxDepth, i);
    if (c == ']' || c == '}') --depth;
    if (c == 'I' || c == 'N') python = true;
  }
  return python;
}

std::string without_python_numbers(std::string_view text) {
  std::string plain;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') in_string = !in_string;
    if (in_string && text[i] == '\\' && i + 1 < text.size()) plain += text[i++];
    bool replaced = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"})
      if (!in_string && !replaced && text.substr(i).starts_with(word)) {
        plain += fmt::format(R"({{"__float__":"{}"}})", word);
        i += word.size() - 1;
        replaced = true;
      }
    if (!replaced) plain += text[i];
  }
  return plain;
}

Json parse(std::string_view text, std::string_view where, DuplicateKeys duplicates) {
  if (duplicates == DuplicateKeys::keep_last) return Json::parse(text);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      fail(ErrorKind::bad_input, where, "key {} is given twice", value.dump());
    return true;
  };
  return Json::parse(text, watch);
}

std::optional<double> as_number(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (value.is_object() && value.contains("__float__") && value["__float__"].is_string()) {
    const std::string word = value["__float__"];
    if (word == "Infinity") return std::numeric_limits<double>::infinity();
    if (word == "-Infinity") return -std::numeric_limits<double>::infinity();
    if (word == "NaN") return std::numeric_limits<double>::quiet_NaN();
  }
  return {};
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where, DuplicateKeys duplicates) {
  const bool python = check_depth(text, where);
  try {
    return python ? parse(without_python_numbers(text), where, duplicates) : parse(text, where, duplicates);
  } catch (const Json::exception& error) {  // parse_error, and out_of_range for numbers such as 1e999
    // nlohmann's message names line and column; its own prefix says nothing to a user.
    std::string message = error.what();
    if (const size_t start = message.find("] "); start != std::string::npos) message = message.substr(start + 2);
    fail(ErrorKind::bad_input, where, "not valid JSON: {}", message);
  }
}

Json read_json(const std::filesystem::path& path, DuplicateKeys duplicates) {
  return parse_json(read_text(path), path.string(), duplicates);
}

JsonReader::JsonReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) fail(ErrorKind::bad_input, where_, "expected a JSON object, found {}", object.type_name());
}

bool JsonReader::has(std::string_view key) const {
  const auto found = object_.find(std::string(key));
  return found != object_.end() && !found->is_null();
}

const Json* JsonReader::find(std::string_view key) {
  read_.emplace(key);
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonReader::wrong_type(std::string_view key, std::string_view expected, const Json& found) const {
  std::string text = found.dump();
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  fail(ErrorKind::bad_input, where_, "key \"{}\": expected {}, found {}", key, expected, text);
}

namespace {
template <typename T>
T absent(const std::optional<T>& otherwise, std::string_view where, std::string_view key) {
  if (otherwise) return *otherwise;
  fail(ErrorKind::not_found, where, "key \"{}\" is missing", key);
}
}  // namespace

int64_t JsonReader::integer(std::string_view key, std::optional<int64_t> otherwise) {
  const Json* value = find(key);
  if (!value) return absent(otherwise, where_, key);
  if (value->is_number_integer()) {
    if (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})
      wrong_type(key, "an integer below 2^63", *value);
    return value->get<int64_t>();
  }
  if (value->is_number_float()) {
    const double number = value->get<double>();
    if (number == std::floor(number) && std::abs(number) < 0x1p53) return static_cast<int64_t>(number);
  }
  wrong_type(key, "an integer", *value);
}

double JsonReader::number(std::string_view key, std::optional<double> otherwise) {
  const Json* value = find(key);
  if (!value) return absent(otherwise, where_, key);
  if (const auto number = as_number(*value)) return *number;
  wrong_type(key, "a number", *value);
}

bool JsonReader::boolean(std::string_view key, std::optional<bool> otherwise) {
  const Json* value = find(key);
  if (!value) return absent(otherwise, where_, key);
  if (!value->is_boolean()) wrong_type(key, "true or false", *value);
  return value->get<bool>();
}

std::string JsonReader::string(std::string_view key, std::optional<std::string> otherwise) {
  const Json* value = find(key);
  if (!value) return absent(otherwise, where_, key);
  if (!value->is_string()) wrong_type(key, "a string", *value);
  return value->get<std::string>();
}

std::vector<int64_t> JsonReader::integers(std::string_view key) {
  std::vector<int64_t> list;
  const Json* value = find(key);
  if (!value) return list;
  if (!value->is_array()) wrong_type(key, "a list of integers", *value);
  for (const Json& item : *value) {
    if (!item.is_number_integer()) wrong_type(key, "a list of integers", *value);
    list.push_back(item.get<int64_t>());
  }
  return list;
}

std::vector<double> JsonReader::numbers(std::string_view key) {
  std::vector<double> list;
  const Json* value = find(key);
  if (!value) return list;
  if (!value->is_array()) wrong_type(key, "a list of numbers", *value);
  for (const Json& item : *value) {
    const auto number = as_number(item);
    if (!number) wrong_type(key, "a list of numbers", *value);
    list.push_back(*number);
  }
  return list;
}

std::vector<std::string> JsonReader::strings(std::string_view key) {
  std::vector<std::string> list;
  const Json* value = find(key);
  if (!value) return list;
  if (!value->is_array()) wrong_type(key, "a list of strings", *value);
  for (const Json& item : *value) {
    if (!item.is_string()) wrong_type(key, "a list of strings", *value);
    list.push_back(item.get<std::string>());
  }
  return list;
}

const Json* JsonReader::object(std::string_view key) {
  const Json* value = find(key);
  if (value && !value->is_object()) wrong_type(key, "an object", *value);
  return value;
}

const Json* JsonReader::value(std::string_view key) { return find(key); }

void JsonReader::inert(std::initializer_list<std::string_view> keys) {
  for (std::string_view key : keys) read_.emplace(key);
}

std::vector<std::string> JsonReader::unread() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items())
    if (!read_.contains(key)) keys.push_back(key);
  return keys;
}

void JsonReader::refuse(const std::string& key, const std::vector<std::string>& known) const {
  const std::string meant = did_you_mean(key, known);
  std::string all;
  for (const std::string& name : known) all += (all.empty() ? "" : ", ") + name;
  throw Error(ErrorKind::bad_input, where_, fmt::format("key \"{}\" is not known", key),
              meant.empty() ? "known here are: " + all : meant);
}

void JsonReader::expect(const std::vector<std::string>& known) const {
  for (const auto& [key, value] : object_.items())
    if (std::find(known.begin(), known.end(), key) == known.end()) refuse(key, known);
}

void JsonReader::refuse_unread() const {
  if (const std::vector<std::string> keys = unread(); !keys.empty()) refuse(keys.front(), {read_.begin(), read_.end()});
}

std::string JsonReader::meant(std::string_view key) const {
  return did_you_mean(key, std::vector<std::string>(read_.begin(), read_.end()));
}

}  // namespace coterie::base
