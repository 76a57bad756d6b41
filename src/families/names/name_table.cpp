#include "families/names/name_table.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace coterie::families {

namespace {

bool digit(char c) { return c >= '0' && c <= '9'; }

// Whether `name` fits a pattern with {layer} and *. Recursion is bounded by the pattern's placeholders.
bool fits(std::string_view pattern, std::string_view name) {
  constexpr std::string_view kLayer = "{layer}";
  while (!pattern.empty()) {
    if (pattern.starts_with(kLayer)) {
      size_t end = 0;
      while (end < name.size() && digit(name[end])) ++end;
      return end > 0 && fits(pattern.substr(kLayer.size()), name.substr(end));
    }
    if (pattern.front() == '*') {
      for (size_t skip = 0; skip <= name.size(); ++skip)
        if (fits(pattern.substr(1), name.substr(skip))) return true;
      return false;
    }
    if (name.empty() || name.front() != pattern.front()) return false;
    pattern.remove_prefix(1), name.remove_prefix(1);
  }
  return name.empty();
}

void replace(std::string& text, std::string_view what, int64_t number) {
  if (const size_t at = text.find(what); at != std::string::npos) text.replace(at, what.size(), std::to_string(number));
}

}  // namespace

const std::vector<NameInFile>* NameTable::find(std::string_view path_pattern) const {
  const auto found = names.find(path_pattern);
  return found == names.end() ? nullptr : &found->second;
}

bool NameTable::is_inert(std::string_view name) const {
  return std::any_of(inert.begin(), inert.end(), [&](const std::string& pattern) { return fits(pattern, name); });
}

PathPattern path_pattern(std::string_view path) {
  PathPattern result;
  for (size_t i = 0; i < path.size();) {
    int64_t& number = result.layer < 0 ? result.layer : result.item;
    if (number < 0 && digit(path[i]) && i > 0 && path[i - 1] == '.') {
      result.pattern += result.layer < 0 ? "{layer}" : "{item}";
      number = 0;
      for (; i < path.size() && digit(path[i]); ++i) number = number * 10 + (path[i] - '0');
    } else {
      result.pattern += path[i++];
    }
  }
  return result;
}

tensor::Shape shape_in_file(Form form, const tensor::Shape& shape, int64_t parts) {
  tensor::Shape result = shape;
  switch (form) {
    case Form::plain: break;
    case Form::in_parts:
      base::require(parts > 0 && shape.front() % parts == 0, "name table", "{} rows in {} parts", shape.front(), parts);
      result.front() /= parts;
      result.insert(result.begin(), parts);
      break;
    case Form::loose_filters:
    case Form::filters: result.insert(result.end() - 1, 1); break;
    case Form::loose_column:
    case Form::column: result.push_back(1); break;
    case Form::loose_heads: result = {1, 1, result.front(), 1}; break;
    case Form::transposed: std::swap(result.at(result.size() - 2), result.back()); break;
    case Form::columns_together: std::swap(result.at(result.size() - 2), result.back()); [[fallthrough]];
    case Form::rows_together:
      result.at(1) *= result.front();
      result.erase(result.begin());
      break;
    case Form::mxfp4_pair:
      result.back() /= 32;
      result.push_back(16);
      break;
  }
  return result;
}

std::string expand(std::string_view pattern, int64_t layer, int64_t expert, int64_t item) {
  std::string name(pattern);
  replace(name, "{layer}", layer);
  replace(name, "{half_layer}", layer / 2), replace(name, "{odd}", layer % 2);
  if (expert >= 0) replace(name, "{expert}", expert);
  replace(name, "{item}", item);
  return name;
}

void move_layer(NameTable& table, const std::function<std::string(std::string_view part)>& prefix) {
  constexpr std::string_view kBlock = "blocks.{layer}.", kLayer = "{layer}.";
  for (auto& [path, patterns] : table.names) {
    if (!path.starts_with(kBlock)) continue;
    for (NameInFile& name : patterns)
      if (const size_t at = name.pattern.find(kLayer); at != std::string::npos)
        name.pattern = prefix(std::string_view(path).substr(kBlock.size())) + name.pattern.substr(at + kLayer.size());
  }
}

}  // namespace coterie::families
