#include "train/recipe.h"

#include <algorithm>

#include "base/error.h"
#include "base/yaml.h"
#include "checkpoint/run_layout.h"
#include "train/recipe_sections.h"
#include "train/tuned_model.h"

// Where a recipe comes from: a file with its variants and settings, or the folder of a run that goes on.
namespace coterie::train {

using base::ErrorKind;
using base::fail;
using base::Json;

namespace {

Json object_in(const std::filesystem::path& path) {
  Json json = base::read_yaml(path);
  if (!json.is_object())
    fail(ErrorKind::bad_input, path.string(), "expected the sections of a recipe, found {}", json.type_name());
  return json;
}

// "training.steps=100"
void set(Json& json, const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0)
    fail(ErrorKind::bad_input, "settings", "\"{}\" is not of the form section.key=value", setting);
  // A null takes a key out, as it does in a variant.
  Json value = base::parse_yaml(setting.substr(equals + 1), "settings: " + setting);
  Json* at = &json;
  std::string key;
  for (size_t begin = 0; begin <= equals;) {
    const size_t end = std::min(setting.find('.', begin), equals);
    if (begin > 0) at = &(*at)[key];
    if (!at->is_object()) *at = Json::object();
    key = setting.substr(begin, end - begin);
    begin = end + 1;
  }
  if (value.is_null())
    at->erase(key);
  else
    (*at)[key] = std::move(value);
}

const Json* value_at(const Json& json, const std::string& key) {
  const auto training = json.find("training");
  if (training == json.end() || !training->is_object()) return nullptr;
  const auto found = training->find(key);
  return found == training->end() ? nullptr : &*found;
}

// "steps=3000" of `training`.
void extend(Json& json, const std::string& extension, Json& extended) {
  const std::string key = extension.substr(0, extension.find('='));
  const std::vector<std::string>& known = extensible_keys();
  if (extension.find('=') == std::string::npos || std::find(known.begin(), known.end(), key) == known.end()) {
    std::string all;
    for (const std::string& name : known) all += (all.empty() ? "" : ", ") + name;
    throw base::Error(ErrorKind::bad_input, "extend",
                      fmt::format("\"{}\" is not of the form KEY=VALUE, with one of {}", extension, all),
                      "other keys change what was trained already: begin another run for them");
  }
  const Json* before = value_at(json, key);
  const Json was = before ? *before : Json();
  set(json, "training." + extension);
  const Json* after = value_at(json, key);
  extended["training." + key] = {{"was", was}, {"is", after ? *after : Json()}};
}

// What is known of a recipe only when it has been read.
void add_model(const Recipe& recipe, Json& source) {
  if (recipe.tune)
    source["model"] = describe_base(recipe.tune->model);
  else
    source["model"]["config"] = recipe.config;  // of a file too: a run goes on only with the same
}

struct Given {
  Json json;
  std::string where;
  std::filesystem::path folder, tuned;
  Json origin;
};

Recipe read_given(Given given, const std::vector<std::string>& extensions) {
  Json before = given.json, extended = Json::object();
  for (const std::string& extension : extensions) extend(given.json, extension, extended);
  Recipe recipe = read_sections(given.json, given.where, given.folder, given.tuned);
  recipe.name = given.origin.at("name").get<std::string>();
  recipe.origin = std::move(given.origin);
  recipe.source = std::move(given.json);
  add_model(recipe, recipe.source);
  recipe.extended = std::move(extended);
  if (extensions.empty()) return recipe;
  before["model"] = recipe.source["model"];
  recipe.before = std::move(before);
  return recipe;
}

}  // namespace

const std::vector<std::string>& extensible_keys() {
  static const std::vector<std::string> kKeys = {"steps", "schedule", "warmup", "decay", "floor", "learning_rate"};
  return kKeys;
}

Recipe read_recipe(const std::filesystem::path& path, const RecipeChoice& choice) {
  Json json = object_in(path);
  const Json variants = take_variants(json);
  std::string name = path.stem().string();
  if (!choice.variant.empty()) {
    if (!variants.is_object() || !variants.contains(choice.variant)) {
      std::string known;
      for (const std::string& variant : variants_of(path)) known += (known.empty() ? "" : ", ") + variant;
      fail(ErrorKind::bad_input, path.string(), "has no variant \"{}\", it has {}", choice.variant,
           known.empty() ? "none" : known);
    }
    json.merge_patch(variants[choice.variant]);
    name += "-" + choice.variant;
  }
  for (const std::string& setting : choice.settings) set(json, setting);
  const Json origin = {{"name", name},
                       {"file", std::filesystem::absolute(path).lexically_normal().string()},
                       {"variant", choice.variant}};
  return read_given({std::move(json), path.string(), path.parent_path(), choice.tuned, origin}, choice.extensions);
}

Recipe read_recipe_of_run(const std::filesystem::path& run, const std::vector<std::string>& extensions) {
  const std::filesystem::path path = checkpoint::run_recipe(run);
  if (!std::filesystem::exists(path))
    throw base::Error(ErrorKind::not_found, run.string(), "holds no training run that has begun",
                      "name the folder that a run was written into, or the RECIPE to begin one");
  Json json = base::read_json(path);
  if (!json.is_object()) fail(ErrorKind::bad_input, path.string(), "expected an object, found {}", json.type_name());
  const Json origin = json.value("run", Json());
  json.erase("run");
  json.erase("extended");
  if (!origin.is_object() || !origin.contains("file") || !origin.contains("name"))
    throw base::Error(ErrorKind::bad_input, path.string(), "does not say which file the recipe was read from",
                      "an earlier version began this run: name its RECIPE beside `resume`");
  std::filesystem::path tuned;
  if (json.contains("tune")) {
    tuned = base::JsonReader(json.value("model", Json::object()), path.string() + ": model").string("path");
    json.erase("model");
  }
  const std::filesystem::path file = origin.at("file").get<std::string>();
  return read_given({std::move(json), path.string(), file.parent_path(), tuned, origin}, extensions);
}

std::vector<std::string> variants_of(const std::filesystem::path& path) {
  const Json json = object_in(path);
  std::vector<std::string> names;
  if (!json.contains("variants")) return names;
  const Json& variants = json["variants"];
  if (!variants.is_object())
    fail(ErrorKind::bad_input, path.string(), "variants is {}, expected an object of names", variants.type_name());
  for (const auto& [name, changes] : variants.items()) {
    if (!changes.is_object())
      fail(ErrorKind::bad_input, path.string() + ": variants", "{} is {}, expected an object of keys to replace", name,
           changes.type_name());
    names.push_back(name);
  }
  return names;
}

}  // namespace coterie::train
