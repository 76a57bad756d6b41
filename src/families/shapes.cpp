#include "families/shapes.h"

#include "base/error.h"
#include "base/json.h"
#include "families/family.h"

namespace coterie::families {

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Shape& shape : all_shapes()) names.emplace_back(shape.name);
  return names;
}

namespace {

/// The first `layers` of a config's layers: their number, and the lists that have an entry for each.
void shorten(base::Json& json, int64_t layers, std::string_view name) {
  if (json.contains("text_config") && json["text_config"].is_object())
    return shorten(json["text_config"], layers, name);
  std::string count = "num_hidden_layers";
  if (json.contains("num_layers") && !json.contains(count)) count = "num_layers";
  const auto held = json.find(count);
  const bool said = held != json.end() && held->is_number_integer();
  const auto list = json.find("layers_block_type");  // its length is the number of layers where none is given
  const int64_t all = said                                     ? held->get<int64_t>()
                      : list != json.end() && list->is_array() ? static_cast<int64_t>(list->size())
                                                               : layers;
  if (layers > all) base::fail(base::ErrorKind::bad_input, "shape.layers", "is {}, {} has {}", layers, name, all);
  const auto kept = static_cast<size_t>(layers);
  for (auto& [key, value] : json.items()) {
    if (value.is_array() && value.size() == static_cast<size_t>(all)) value.erase(value.begin() + layers, value.end());
    if (key == "hybrid_override_pattern" && value.is_string()) value = value.get<std::string>().substr(0, kept);
  }
  if (said || list == json.end()) json[count] = layers;
}

}  // namespace

models::ModelSpec shape(std::string_view name, int64_t layers) {
  const auto spec_of = [&](base::Json json) {
    if (layers != 0) shorten(json, layers, name);
    return read_config(json, std::string(name), true);
  };
  if (name.ends_with(".json")) return spec_of(base::read_json(name));
  std::string known;
  for (const Shape& shape : all_shapes()) {
    if (shape.name == name) return spec_of(base::parse_json(shape.config, name));
    known += (known.empty() ? "" : ", ") + std::string(shape.name);
  }
  base::fail(base::ErrorKind::bad_input, "shape", "\"{}\" is neither a config.json nor a known shape; known are {}",
             name, known);
}

}  // namespace coterie::families
