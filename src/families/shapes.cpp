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

models::ModelSpec shape(std::string_view name, int64_t layers) {
  const auto spec_of = [&](base::Json json) {
    if (layers != 0) {
      const auto held = json.find("num_hidden_layers");
      if (held != json.end() && held->is_number_integer() && layers > held->get<int64_t>())
        base::fail(base::ErrorKind::bad_input, "shape.layers", "is {}, {} has {}", layers, name, held->get<int64_t>());
      json["num_hidden_layers"] = layers;
    }
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
