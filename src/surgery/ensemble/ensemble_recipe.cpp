#include "surgery/ensemble/ensemble_recipe.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using base::Json;
using base::JsonReader;
using Kind = families::Gate::Kind;
using Learn = EnsembleRecipe::Learn;

/// A name, or a list of them.
std::vector<std::string> names(JsonReader& keys, const std::string& key) {
  const Json* value = keys.value(key);
  if (value && value->is_string()) return {value->get<std::string>()};
  return keys.strings(key);
}

EnsembleRecipe::Source read_source(const Json& json, const std::string& where) {
  if (!json.is_object()) fail(ErrorKind::bad_input, where, "expected keys, source_model among them");
  JsonReader keys(json, where);
  keys.expect({"source_model", "positive_prompts", "negative_prompts", "texts"});
  EnsembleRecipe::Source source;
  source.where = where;
  source.source_model = keys.string("source_model");
  source.positive_prompts = names(keys, "positive_prompts");
  source.negative_prompts = names(keys, "negative_prompts");
  source.texts = names(keys, "texts");
  keys.refuse_unread();
  return source;
}

Learn read_learn(JsonReader& keys, Kind kind) {
  const std::string word = keys.string("learn", kind == Kind::token ? "likelihood" : "labels");
  if (word == "labels") return Learn::labels;
  if (word == "likelihood") return Learn::likelihood;
  fail(ErrorKind::bad_input, keys.where(), "learn is \"{}\", expected labels or likelihood", word);
}

void check_range(const std::string& where, std::string_view key, double value, double least, double most) {
  if (!(value >= least && value <= most))
    fail(ErrorKind::bad_input, where, "{} is {}, expected {} to {}", key, value, least, most);
}

/// What is fitted, for gates that are.
void read_fitting(JsonReader& keys, EnsembleRecipe& recipe) {
  recipe.reader = keys.string("reader", "");
  recipe.learn = read_learn(keys, recipe.kind);
  recipe.temperature = keys.number("temperature", 1.0);
  recipe.tokens = keys.integer("tokens", recipe.tokens);
  recipe.window = keys.integer("window", recipe.window);
  recipe.steps = keys.integer("steps", recipe.steps);
  recipe.weight_decay = keys.number("weight_decay", recipe.weight_decay);
  const std::string& where = keys.where();
  check_range(where, "temperature", recipe.temperature, 1e-6, 1e6);
  check_range(where, "tokens", static_cast<double>(recipe.tokens), 2, 1e9);
  check_range(where, "window", static_cast<double>(recipe.window), 2, 1e6);
  check_range(where, "steps", static_cast<double>(recipe.steps), 1, 1e6);
  check_range(where, "weight_decay", recipe.weight_decay, 0, 1);
  if (!recipe.reader.empty() &&
      std::none_of(recipe.sources.begin(), recipe.sources.end(),
                   [&](const EnsembleRecipe::Source& source) { return source.source_model == recipe.reader; }))
    fail(ErrorKind::bad_input, where, "reader is \"{}\", which is none of the models", recipe.reader);
}

void check_sources(const EnsembleRecipe& recipe, const std::string& where) {
  bool anything = false;
  for (const EnsembleRecipe::Source& source : recipe.sources) {
    const bool reads = !source.positive_prompts.empty() || !source.texts.empty();
    anything = anything || reads;
    if (recipe.kind == Kind::uniform) {
      if (reads || !source.negative_prompts.empty())
        fail(ErrorKind::bad_input, source.where, "a uniform gate reads nothing: it takes no prompts and no texts");
    } else if (recipe.learn == Learn::likelihood) {
      if (!source.negative_prompts.empty())
        fail(ErrorKind::bad_input, source.where,
             "negative_prompts: learn: likelihood asks the models whose a text is, not the recipe");
    } else if (!reads) {
      fail(ErrorKind::bad_input, source.where,
           "neither positive_prompts nor texts: they are what the gate knows this model's prompts by");
    }
  }
  if (recipe.kind != Kind::uniform && !anything)
    fail(ErrorKind::bad_input, where, "there are no texts and no positive_prompts to fit the gate on");
}

}  // namespace

EnsembleRecipe read_ensemble_recipe(const Json& json, const std::string& where) {
  if (!json.is_object()) fail(ErrorKind::bad_input, where, "expected keys: gate, models, …");
  JsonReader keys(json, where);
  keys.expect(
      {"gate", "models", "top_k", "temperature", "reader", "learn", "tokens", "window", "steps", "weight_decay"});
  EnsembleRecipe recipe;
  recipe.kind = families::gate_kind(keys.string("gate"), where);
  const Json* list = keys.value("models");
  if (!list || !list->is_array()) fail(ErrorKind::bad_input, where, "models: expected a list");
  for (size_t i = 0; i < list->size(); ++i)
    recipe.sources.push_back(read_source((*list)[i], fmt::format("{}: models[{}]", where, i)));
  const auto count = std::ssize(recipe.sources);
  recipe.top_k = keys.integer("top_k", recipe.kind == Kind::prompt ? 1 : count);
  if (recipe.kind == Kind::uniform) {
    for (const char* key : {"reader", "learn", "temperature", "tokens", "window", "steps", "weight_decay"})
      if (keys.has(key)) fail(ErrorKind::bad_input, where, "{}: a uniform gate is not fitted", key);
  } else {
    read_fitting(keys, recipe);
  }
  keys.refuse_unread();
  families::Gate gate;
  gate.kind = recipe.kind, gate.top_k = recipe.top_k;
  gate.models.resize(recipe.sources.size());
  families::check(gate, where);
  check_sources(recipe, where);
  return recipe;
}

}  // namespace coterie::surgery
