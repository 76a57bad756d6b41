#include "surgery/merge/moe_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/nearest.h"
#include "families/family.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using base::Json;
using base::JsonReader;

ExpertRecipe read_expert(const Json& json, const std::string& where) {
  if (!json.is_object()) fail(ErrorKind::bad_input, where, "expected keys, source_model among them");
  JsonReader keys(json, where);
  keys.expect({"source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale"});
  ExpertRecipe expert;
  expert.where = where;
  expert.source_model = keys.string("source_model");
  expert.positive_prompts = keys.strings("positive_prompts");
  expert.negative_prompts = keys.strings("negative_prompts");
  expert.noise_scale = keys.number("noise_scale", 0.0);
  expert.residual_scale = keys.number("residual_scale", 1.0);
  if (!(expert.noise_scale >= 0 && expert.noise_scale < 1e9))
    fail(ErrorKind::bad_input, where, "noise_scale is {}, expected 0 or more", expert.noise_scale);
  if (!(expert.residual_scale > -1e9 && expert.residual_scale < 1e9))
    fail(ErrorKind::bad_input, where, "residual_scale is {}: expected a finite number", expert.residual_scale);
  keys.refuse_unread();
  return expert;
}

std::vector<ExpertRecipe> read_experts(JsonReader& keys, const std::string& key) {
  std::vector<ExpertRecipe> experts;
  const Json* list = keys.value(key);
  if (!list) return experts;
  if (!list->is_array()) fail(ErrorKind::bad_input, keys.where(), "{}: expected a list", key);
  for (size_t i = 0; i < list->size(); ++i)
    experts.push_back(read_expert((*list)[i], fmt::format("{}: {}[{}]", keys.where(), key, i)));
  return experts;
}

MoeRecipe::Gates read_gates(JsonReader& keys) {
  using Gates = MoeRecipe::Gates;
  static const std::array<std::pair<std::string, Gates>, 6> kKnown = {{{"hidden", Gates::hidden},
                                                                       {"hidden_avg", Gates::hidden},
                                                                       {"hidden_last", Gates::hidden_last},
                                                                       {"cheap_embed", Gates::cheap_embed},
                                                                       {"random", Gates::random},
                                                                       {"uniform_random", Gates::uniform_random}}};
  const std::string word = keys.string("gate_mode", "hidden");
  std::vector<std::string> names;
  for (const auto& [name, gates] : kKnown) {
    if (name == word) return gates;
    names.push_back(name);
  }
  throw base::Error(ErrorKind::bad_input, keys.where(),
                    fmt::format("gate_mode is \"{}\", expected hidden, hidden_avg, hidden_last, cheap_embed, random or "
                                "uniform_random",
                                word),
                    base::did_you_mean(word, names));
}

/// A model_type that mixtures are written as, also by the name that other programs' recipes have for it.
std::string read_architecture(JsonReader& keys) {
  std::string word = keys.string("architecture", "");
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
  if (word.empty()) return "";
  std::string known;
  for (const families::Family* family : families::mixture_families()) {
    const auto called = [&](std::string_view alias) { return !alias.empty() && alias == word; };
    if (family->model_type == word || std::any_of(std::begin(family->aliases), std::end(family->aliases), called))
      return std::string(family->model_type);
    known += (known.empty() ? "" : ", ") + std::string(family->model_type);
  }
  throw base::Error(ErrorKind::unsupported, keys.where(),
                    fmt::format("architecture \"{}\" is not one that mixtures can be written as", word),
                    "there are " + known);
}

}  // namespace

std::optional<tensor::DType> recipe_dtype(JsonReader& keys, std::string_view key) {
  const std::string word = keys.string(key, "");
  if (word.empty()) return {};
  if (word == "float32" || word == "f32") return tensor::DType::f32;
  if (word == "float16" || word == "f16") return tensor::DType::f16;
  if (word == "bfloat16" || word == "bf16") return tensor::DType::bf16;
  fail(ErrorKind::unsupported, keys.where(), "{} is \"{}\", expected float32, float16 or bfloat16", key, word);
}

bool is_moe_recipe(const Json& recipe) {
  return recipe.is_object() && !recipe.contains("merge_method") &&
         (recipe.contains("experts") || recipe.contains("gate_mode") || recipe.contains("shared_experts"));
}

std::vector<std::string> moe_recipe_keys() {
  return {"base_model", "gate_mode", "experts", "shared_experts", "experts_per_token", "dtype", "architecture"};
}

MoeRecipe read_moe_recipe(const Json& json, const std::string& where) {
  JsonReader keys(json, where);
  keys.expect(moe_recipe_keys());
  MoeRecipe recipe;
  recipe.base_model = keys.string("base_model");
  recipe.gates = read_gates(keys);
  recipe.experts = read_experts(keys, "experts");
  std::vector<ExpertRecipe> shared = read_experts(keys, "shared_experts");
  recipe.experts_per_token = keys.integer("experts_per_token", 2);
  recipe.dtype = recipe_dtype(keys, "dtype");
  recipe.architecture = read_architecture(keys);
  keys.refuse_unread();

  if (recipe.experts.empty()) fail(ErrorKind::bad_input, where, "experts: the list is empty");
  if (recipe.experts_per_token < 1 || recipe.experts_per_token > std::ssize(recipe.experts))
    fail(ErrorKind::bad_input, where, "experts_per_token is {}, expected 1 to {}, the number of experts",
         recipe.experts_per_token, recipe.experts.size());
  if (shared.size() > 1)
    fail(ErrorKind::unsupported, where, "shared_experts lists {}: a model has one at most", shared.size());
  if (!shared.empty()) recipe.shared = std::move(shared.front());
  bool prompts = false;
  for (const ExpertRecipe& expert : recipe.experts) {
    prompts = prompts || !expert.positive_prompts.empty() || !expert.negative_prompts.empty();
    if (recipe.reads_prompts() && expert.positive_prompts.empty())
      throw base::Error(ErrorKind::bad_input, expert.where,
                        "positive_prompts is missing: the gate is made of what these texts look like to the model",
                        "gate_mode: random needs none, and is for models that are trained afterwards");
  }
  if (prompts && !recipe.reads_prompts())
    recipe.notes.push_back("random gates read no prompts: those of the recipe have no effect");
  return recipe;
}

}  // namespace coterie::surgery
