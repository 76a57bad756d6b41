#include "base/yaml.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <regex>

#include "base/atomic_file.h"

namespace coterie::base {

namespace {

constexpr int kDeepest = 64;
constexpr int64_t kMostNodes = 100'000;  // with aliases followed
constexpr int64_t kLargestFile = 16 << 20;

class Converter {
 public:
  explicit Converter(std::string_view where) : where_(where) {}

  Json convert(const YAML::Node& node, int depth = 0) {
    if (depth > kDeepest) refuse(node, fmt::format("is nested deeper than {}", kDeepest));
    if (++nodes_ > kMostNodes) refuse(node, fmt::format("stands for more than {} values", kMostNodes));
    switch (node.Type()) {
      case YAML::NodeType::Sequence: {
        Json list = Json::array();
        for (const YAML::Node& item : node) list.push_back(convert(item, depth + 1));
        return list;
      }
      case YAML::NodeType::Map: {
        Json object = Json::object();
        for (const auto& entry : node) {
          if (!entry.first.IsScalar()) refuse(entry.first, "is a key that is not a word");
          const std::string& key = entry.first.Scalar();
          if (object.contains(key)) refuse(entry.first, fmt::format("is the key \"{}\" a second time", key));
          object[key] = convert(entry.second, depth + 1);
        }
        return object;
      }
      case YAML::NodeType::Scalar: return scalar(node);
      default: return nullptr;
    }
  }

 private:
  [[noreturn]] void refuse(const YAML::Node& node, const std::string& what) const {
    fail(ErrorKind::bad_input, where_, "line {}, column {}: this {}", node.Mark().line + 1, node.Mark().column + 1,
         what);
  }

  static Json scalar(const YAML::Node& node) {
    static const std::regex number("[-+]?(\\.[0-9]+|[0-9]+(\\.[0-9]*)?)([eE][-+]?[0-9]+)?");
    static const std::regex infinity("([-+]?)\\.(inf|Inf|INF)");
    const std::string& text = node.Scalar();
    if (node.Tag() == "!") return text;  // quoted
    if (text == "~" || text == "null" || text == "Null" || text == "NULL" || text.empty()) return nullptr;
    if (text == "true" || text == "True" || text == "TRUE") return true;
    if (text == "false" || text == "False" || text == "FALSE") return false;
    const char *begin = text.data() + (text[0] == '+'), *end = text.data() + text.size();
    int64_t integer = 0;
    if (const auto [stop, error] = std::from_chars(begin, end, integer); error == std::errc() && stop == end)
      return integer;
    std::smatch match;
    if (std::regex_match(text, match, infinity)) return {{"__float__", match[1] == "-" ? "-Infinity" : "Infinity"}};
    if (text == ".nan" || text == ".NaN" || text == ".NAN") return {{"__float__", "NaN"}};
    double value = 0;
    if (std::regex_match(text, number))
      if (const auto [stop, error] = std::from_chars(begin, end, value); error == std::errc() && stop == end)
        return value;
    return text;
  }

  std::string where_;
  int64_t nodes_ = 0;
};

}  // namespace

Json parse_yaml(std::string_view text, std::string_view where) {
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(std::string(text));
  } catch (const YAML::Exception& error) {
    fail(ErrorKind::bad_input, where, "line {}, column {}: {}", error.mark.line + 1, error.mark.column + 1, error.msg);
  }
  if (documents.size() > 1) fail(ErrorKind::bad_input, where, "has {} YAML documents, expected one", documents.size());
  return documents.empty() ? Json() : Converter(where).convert(documents.front());
}

Json read_yaml(const std::filesystem::path& path) {
  const std::string text = read_text(path, kLargestFile);
  if (text.empty()) fail(ErrorKind::bad_input, path.string(), "the file is empty");
  return parse_yaml(text, path.string());
}

}  // namespace coterie::base
