#include "text/chat/tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace coterie::text {

namespace {

using base::ErrorKind;
using base::fail;
using OrderedJson = nlohmann::ordered_json;  // a schema's order is the order in which arguments are written

constexpr size_t kLongestName = 128;

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}

Tool read_tool(const OrderedJson& json, const std::string& where) {
  if (!json.is_object()) fail(ErrorKind::bad_input, where, "is not an object");
  if (json.value("type", OrderedJson()) != "function")
    fail(ErrorKind::bad_input, where + ".type", "is {}, expected \"function\"",
         json.value("type", OrderedJson()).dump());
  const OrderedJson function = json.value("function", OrderedJson());
  if (!function.is_object()) fail(ErrorKind::bad_input, where + ".function", "is missing or not an object");
  const OrderedJson name = function.value("name", OrderedJson());
  if (!name.is_string() || !is_name(name.get<std::string>()))
    fail(ErrorKind::bad_input, where + ".function.name",
         "is {}, expected 1 to {} letters, digits, \"_\", \"-\" or \".\"", name.dump(), kLongestName);
  Tool tool{name.get<std::string>(), {}, where + ".function.parameters"};
  OrderedJson parameters = function.value("parameters", OrderedJson());
  if (parameters.is_null()) parameters = OrderedJson::parse(R"({"properties": {}, "additionalProperties": false})");
  if (!parameters.is_object()) fail(ErrorKind::bad_input, tool.where, "is not a JSON schema of an object");
  if (!parameters.contains("type") && !parameters.contains("$ref")) parameters["type"] = "object";
  if (parameters.contains("type") && parameters["type"] != "object")
    fail(ErrorKind::bad_input, tool.where, "has the type {}, expected \"object\": arguments have names",
         parameters["type"].dump());
  tool.parameters = parameters.dump();
  return tool;
}

// --- Arguments between marks
// ------------------------------------------------------------------------------------------

const OrderedJson& resolved(const OrderedJson& schema, const OrderedJson& root) {
  const OrderedJson* at = &schema;
  for (int depth = 0; depth < 16 && at->is_object() && at->contains("$ref") && (*at)["$ref"].is_string(); ++depth) {
    const std::string reference = (*at)["$ref"];
    if (!reference.starts_with("#")) break;
    const OrderedJson::json_pointer pointer(reference.substr(1));
    if (!root.contains(pointer)) break;
    at = &root.at(pointer);
  }
  return *at;
}

/// A regex between slashes.
std::string slashed(std::string_view expression) {
  std::string out = "/";
  for (size_t i = 0; i < expression.size(); ++i) {
    if (expression[i] == '\\' && i + 1 < expression.size()) {
      out += expression.substr(i++, 2);
    } else if (expression[i] == '/') {
      out += "\\/";
    } else if (expression[i] == '\n') {
      out += "\\n";
    } else {
      out += expression[i];
    }
  }
  return out + "/";
}

/// What a schema of strings lets through, as a terminal.
std::string string_terminal(const OrderedJson& schema, const std::string& where) {
  for (const auto& [key, value] : schema.items())
    if (key == "format" || key == "not" || key == "allOf" || key == "if")
      fail(ErrorKind::bad_input, where, "\"{}\" of a string cannot be kept in this model's syntax of calls", key);
  std::string terminal = "/(?s:.*)/";
  if (schema.contains("minLength") || schema.contains("maxLength"))
    terminal = fmt::format("/(?s:.{{{},{}}})/", schema.value("minLength", int64_t{0}),
                           schema.contains("maxLength") ? schema["maxLength"].dump() : "");
  if (schema.contains("pattern")) {
    // Without an anchor anything may stand there.
    const std::string given = schema["pattern"];
    const bool first = given.starts_with("^"), last = given.ends_with("$") && !given.ends_with("\\$");
    const std::string inner = given.substr(first ? 1 : 0, given.size() - (first ? 1 : 0) - (last ? 1 : 0));
    terminal += " & " + slashed((first ? "(" : "(?s:.*)(") + inner + (last ? ")" : ")(?s:.*)"));
  }
  return terminal;
}

struct Kinds {
  std::vector<std::string> terminals, literals;
  bool json = false;
};

void add_constant(const OrderedJson& value, Kinds& kinds) {
  if (value.is_string())
    kinds.terminals.push_back(OrderedJson(value.get<std::string>()).dump());
  else
    kinds.literals.push_back(value.dump());
}

/// Collects how the values of a schema may be written.
void collect(const OrderedJson& given, const OrderedJson& root, const std::string& where, Kinds& kinds, int depth = 0) {
  const OrderedJson& schema = resolved(given, root);
  if (depth > 16) fail(ErrorKind::bad_input, where, "refers to itself");
  if (!schema.is_object()) return kinds.terminals.push_back("/(?s:.*)/");
  if (schema.contains("const")) return add_constant(schema["const"], kinds);
  if (schema.contains("enum")) {
    for (const OrderedJson& value : schema["enum"]) add_constant(value, kinds);
    return;
  }
  for (const char* const key : {"anyOf", "oneOf"}) {
    if (!schema.contains(key)) continue;
    int64_t index = 0;
    for (const OrderedJson& option : schema[key])
      collect(option, root, fmt::format("{}/{}/{}", where, key, index++), kinds, depth + 1);
    return;
  }
  std::vector<std::string> types;
  const OrderedJson type = schema.value("type", OrderedJson());
  if (type.is_string()) types = {type.get<std::string>()};
  if (type.is_array())
    for (const OrderedJson& one : type) types.push_back(one.is_string() ? one.get<std::string>() : "");
  const auto has = [&](std::string_view name) { return std::find(types.begin(), types.end(), name) != types.end(); };
  if (types.empty()) kinds.terminals.push_back("/(?s:.*)/");
  if (has("string")) kinds.terminals.push_back(string_terminal(schema, where));
  if (has("null")) kinds.literals.push_back("null");
  if (has("boolean")) kinds.literals.insert(kinds.literals.end(), {"true", "false"});
  if (has("number") || has("integer") || has("object") || has("array")) kinds.json = true;
}

TagValue tag_value(const OrderedJson& schema, const OrderedJson& root, const std::string& where) {
  Kinds kinds;
  collect(schema, root, where, kinds);
  TagValue value;
  value.text = !kinds.terminals.empty();
  if (!value.text) {
    // As JSON: all that the schema says is kept.
    OrderedJson whole = schema.is_object() ? schema : OrderedJson::object();
    for (const char* const key : {"$defs", "definitions", "$schema"})
      if (root.contains(key) && !whole.contains(key)) whole[key] = root[key];
    value.schema = whole.dump();
    return value;
  }
  // Where text is allowed a number is text too; what is JSON and short can still be told apart.
  value.literals = kinds.literals;
  for (const std::string& literal : kinds.literals) kinds.terminals.push_back(OrderedJson(literal).dump());
  value.terminal = fmt::format("({})", fmt::join(kinds.terminals, ") | ("));
  return value;
}

}  // namespace

std::vector<Tool> read_tools(std::string_view json) {
  const OrderedJson list = OrderedJson::parse(json, nullptr, false);
  if (!list.is_array()) fail(ErrorKind::bad_input, "tools", "is not a JSON array");
  std::vector<Tool> tools;
  for (const OrderedJson& one : list) {
    const std::string where = fmt::format("tools[{}]", tools.size());
    tools.push_back(read_tool(one, where));
    for (size_t i = 0; i + 1 < tools.size(); ++i)
      if (tools[i].name == tools.back().name)
        fail(ErrorKind::bad_input, where + ".function.name", "is \"{}\", as that of tools[{}]", tools[i].name, i);
  }
  return tools;
}

std::vector<TagArgument> tag_arguments(const Tool& tool) {
  const OrderedJson root = OrderedJson::parse(tool.parameters);
  const OrderedJson& schema = resolved(root, root);
  for (const auto& [key, value] : schema.items())
    for (const char* const not_kept :
         {"anyOf", "oneOf", "allOf", "patternProperties", "minProperties", "maxProperties", "enum", "const"})
      if (key == not_kept)
        fail(ErrorKind::bad_input, tool.where,
             "\"{}\" at the top cannot be kept: this model's syntax writes arguments one by one", key);
  const OrderedJson required = schema.value("required", OrderedJson::array());
  const OrderedJson properties = schema.value("properties", OrderedJson::object());
  std::vector<TagArgument> arguments;
  for (const auto& [key, value] : properties.items()) {
    if (key.find_first_of("<>\n") != std::string::npos)
      fail(ErrorKind::bad_input, tool.where, "the name {} cannot be written in this model's syntax of calls",
           OrderedJson(key).dump());
    const bool needed = std::find(required.begin(), required.end(), OrderedJson(key)) != required.end();
    arguments.push_back({key, needed, tag_value(value, root, fmt::format("{}/properties/{}", tool.where, key))});
  }
  for (const OrderedJson& name : required)
    if (std::none_of(arguments.begin(), arguments.end(),
                     [&](const TagArgument& a) { return OrderedJson(a.key) == name; }))
      fail(ErrorKind::bad_input, tool.where, "requires {}, which is not among its properties", name.dump());
  return arguments;
}

}  // namespace coterie::text
