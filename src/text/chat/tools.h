#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace coterie::text {

/// A function that a model may call.
struct Tool {
  std::string name;
  std::string parameters;  // the text of its JSON schema, in the order in which it was written; an object's
  std::string where;       // "tools[0].function.parameters"
};

/// From OpenAI's form: [{"type": "function", "function": {"name", "description", "parameters"}}, …]. Throws bad_input
/// naming the place for anything else, a name that is not letters, digits, _, - and ., and names that occur twice.
std::vector<Tool> read_tools(std::string_view json);

/// How an argument is written where each stands between marks of its own: as text without quotes, or as JSON.
struct TagValue {
  bool text = false;
  // Where the value is text, the words that mean JSON all the same (null, where the schema allows it).
  std::vector<std::string> literals;
  // For the grammar: a terminal of what the text may be, or the schema of the JSON (with the definitions it needs).
  std::string terminal, schema;
};
struct TagArgument {
  std::string key;
  bool required = false;
  TagValue value;
};
/// The arguments of a tool in the order of its properties. Throws bad_input naming the place for a schema that cannot
/// be kept when arguments are written one by one.
std::vector<TagArgument> tag_arguments(const Tool& tool);

}  // namespace coterie::text
