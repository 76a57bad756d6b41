#include "surgery/merge/merge_recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/nearest.h"
#include "surgery/merge/moe_recipe.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using base::Json;
using base::JsonReader;

std::vector<double> gradient_of(const Json& json, const std::string& where) {
  std::vector<double> numbers;
  for (const Json& one : json.is_array() ? json : Json::array({json})) {
    if (!one.is_number() || !std::isfinite(one.get<double>()))
      fail(ErrorKind::bad_input, where, "{}: expected a number or a list of numbers", json.dump());
    numbers.push_back(one.get<double>());
  }
  if (numbers.empty()) fail(ErrorKind::bad_input, where, "the list is empty");
  return numbers;
}

using Drop = MergeTraits::Drop;

class Reader {
 public:
  Reader(const Json& json, const std::string& where) : keys_(json, where) {}

  MergeRecipe read() {
    keys_.expect(merge_recipe_keys());
    read_method();
    recipe_.base_model = keys_.string("base_model", "");
    const auto compute = recipe_dtype(keys_, "dtype"), out = recipe_dtype(keys_, "out_dtype");
    recipe_.dtype = out ? out : compute;
    // Every source must have the base model's tokenizer here, so that any choice of one is the same.
    keys_.inert({"tokenizer_source"});
    if (const Json* parameters = keys_.object("parameters")) {
      JsonReader keys(*parameters, keys_.where() + ": parameters");
      read_rule(keys);
      recipe_.parameters = read_parameters(keys);
    }
    if (keys_.has("modules"))
      fail(ErrorKind::unsupported, keys_.where(), "modules is not supported: expected models or slices");
    if (keys_.has("models") == keys_.has("slices"))
      fail(ErrorKind::bad_input, keys_.where(), "expected either models or slices");
    keys_.has("models") ? read_models() : read_slices();
    keys_.refuse_unread();
    check();
    return std::move(recipe_);
  }

 private:
  void read_method() {
    const std::string word = keys_.string("merge_method");
    const auto names = merge_method_names();
    const auto found = std::find(names.begin(), names.end(), word);
    if (found == names.end()) {
      throw base::Error(ErrorKind::unsupported, keys_.where(),
                        fmt::format("merge_method \"{}\" is not known; known are {}", word, fmt::join(names, ", ")),
                        base::did_you_mean(word, std::vector<std::string>(names.begin(), names.end())));
    }
    recipe_.rule.method = static_cast<MergeMethod>(found - names.begin());
    recipe_.rule.normalize = traits().normalizes;
  }

  // What is one for all tensors.
  void read_rule(JsonReader& keys) {
    MergeRule& rule = recipe_.rule;
    if (traits().weights) rule.normalize = keys.boolean("normalize", rule.normalize);
    if (traits().changes) rule.lambda = keys.number("lambda", 1.0);
    if (traits().drop != Drop::none) rule.rescale = keys.boolean("rescale", traits().rescales);
    if (rule.method == MergeMethod::model_stock) rule.filter_wise = keys.boolean("filter_wise", false);
    if (!std::isfinite(rule.lambda))
      fail(ErrorKind::bad_input, keys.where(), "lambda is {}: expected a finite number", rule.lambda);
    keys.inert({"int8_mask"});  // in how many bytes mergekit holds its masks
  }

  MergeParameters read_parameters(JsonReader& keys) {
    const MergeMethod method = recipe_.rule.method;
    MergeParameters parameters;
    const auto setting = [&](const char* key, bool means_something, std::optional<MergeSetting>& value) {
      if (means_something) keys.inert({key});  // known here, and so what a misspelt one may have meant
      if (!keys.has(key)) return;
      if (!means_something)
        fail(ErrorKind::bad_input, keys.where(), "{} is not a parameter of merge_method {}", key, traits().name);
      value.emplace(*keys.value(key), keys.where() + ": " + key);
    };
    setting("weight", traits().weights, parameters.weight);
    setting("density", traits().drop != Drop::none, parameters.density);
    setting("t", method == MergeMethod::slerp || method == MergeMethod::nearswap, parameters.t);
    setting("gamma", traits().drop == Drop::outliers, parameters.gamma);
    setting("epsilon", traits().drop == Drop::by_rank, parameters.epsilon);
    setting("scale", method == MergeMethod::passthrough, parameters.scale);
    if (parameters.density) parameters.density->expect(0, 1, keys.where() + ": density");
    if (parameters.t && method == MergeMethod::slerp) parameters.t->expect(0, 1, keys.where() + ": t");
    keys.refuse_unread();
    return parameters;
  }

  MergeParameters parameters_of(JsonReader& parent) {
    const Json* json = parent.object("parameters");
    if (!json) return {};
    JsonReader keys(*json, parent.where() + ": parameters");
    return read_parameters(keys);
  }

  const Json& list(JsonReader& keys, const char* key) {
    const Json* json = keys.value(key);
    if (!json || !json->is_array() || json->empty())
      fail(ErrorKind::bad_input, keys.where(), "{}: expected a list", key);
    return *json;
  }

  void read_models() {
    MergeSlice slice;
    const Json& models = list(keys_, "models");
    for (size_t i = 0; i < models.size(); ++i) {
      JsonReader keys(models[i], fmt::format("{}: models[{}]", keys_.where(), i));
      keys.expect({"model", "parameters"});
      slice.sources.push_back({keys.string("model"), parameters_of(keys), keys.where()});
      keys.refuse_unread();
    }
    recipe_.slices.push_back(std::move(slice));
  }

  void read_slices() {
    const Json& slices = list(keys_, "slices");
    for (size_t i = 0; i < slices.size(); ++i) {
      MergeSlice slice;
      JsonReader keys(slices[i], fmt::format("{}: slices[{}]", keys_.where(), i));
      keys.expect({"sources", "parameters"});
      slice.parameters = parameters_of(keys);
      const Json& sources = list(keys, "sources");
      for (size_t s = 0; s < sources.size(); ++s) {
        JsonReader source(sources[s], fmt::format("{}: sources[{}]", keys.where(), s));
        source.expect({"model", "layer_range", "parameters"});
        slice.sources.push_back({source.string("model"), parameters_of(source), source.where()});
        const std::vector<int64_t> range = source.integers("layer_range");
        source.refuse_unread();
        if (range.size() != 2 || range[0] < 0 || range[1] <= range[0])
          fail(ErrorKind::bad_input, source.where(), "layer_range: expected [FIRST, END]");
        if (s == 0) slice.first = range[0], slice.end = range[1];
        if (range[0] != slice.first || range[1] != slice.end)
          fail(ErrorKind::unsupported, source.where(),
               "layer_range [{}, {}] beside [{}, {}]: layers are merged with those of the same number only", range[0],
               range[1], slice.first, slice.end);
      }
      keys.refuse_unread();
      if (recipe_.rule.method == MergeMethod::passthrough) {
        recipe_.slices.push_back(std::move(slice));
        continue;
      }
      const int64_t expected = recipe_.slices.empty() ? 0 : recipe_.slices.back().end;
      if (slice.first != expected)
        fail(ErrorKind::unsupported, keys.where(),
             "it begins at layer {}, expected {}: layers keep their order, none is left out or repeated but by "
             "passthrough",
             slice.first, expected);
      recipe_.slices.push_back(std::move(slice));
    }
  }

  void check() const {
    const MergeMethod method = recipe_.rule.method;
    if (traits().needs_base && recipe_.base_model.empty())
      fail(ErrorKind::not_found, keys_.where(), "base_model is missing, and merge_method {} needs one", traits().name);
    for (const MergeSlice& slice : recipe_.slices) {
      std::vector<std::string> others;
      for (const MergeSlice::Source& source : slice.sources)
        if (source.model != recipe_.base_model) others.push_back(source.model);
      if ((method == MergeMethod::slerp || method == MergeMethod::nearswap) &&
          (others.size() != 1 || slice.sources.size() > 2))
        fail(ErrorKind::bad_input, keys_.where(), "{} goes from the base model to one other, and the recipe has {}",
             traits().name, others.size());
      if (method == MergeMethod::model_stock && others.size() < 2)
        fail(ErrorKind::bad_input, keys_.where(),
             "model_stock needs two models or more beside the base model, {} given", others.size());
      if (method == MergeMethod::passthrough && slice.sources.size() != 1)
        fail(ErrorKind::bad_input, keys_.where(),
             "passthrough takes each layer from one model, {} are given; put them one after the other, as slices",
             slice.sources.size());
    }
  }

  const MergeTraits& traits() const { return traits_of(recipe_.rule.method); }

  JsonReader keys_;
  MergeRecipe recipe_;
};

}  // namespace

MergeSetting::MergeSetting(const Json& json, const std::string& where) {
  // YAML's .nan and .inf, as base::parse_yaml has them.
  if (json.is_object() && json.contains("__float__"))
    fail(ErrorKind::bad_input, where, "is {}, expected a finite number or a list of them",
         json["__float__"].is_string() ? json["__float__"].get<std::string>() : "not a number");
  const bool filtered = json.is_array() && !json.empty() && json.front().is_object();
  if (!filtered && !json.is_object()) {
    choices_.push_back({"", gradient_of(json, where)});
    return;
  }
  for (const Json& one : json.is_array() ? json : Json::array({json})) {
    if (!one.is_object()) fail(ErrorKind::bad_input, where, "{}: expected filter and value", one.dump());
    JsonReader keys(one, where);
    keys.expect({"filter", "value"});
    std::string filter = keys.string("filter", "");
    if (filter == "*") filter.clear();
    const Json* value = keys.value("value");
    if (!value) fail(ErrorKind::not_found, where, "value is missing");
    choices_.push_back({std::move(filter), gradient_of(*value, where)});
    keys.refuse_unread();
  }
}

void MergeSetting::expect(double least, double most, std::string_view where) const {
  for (const Choice& choice : choices_)
    for (const double number : choice.gradient)
      if (!(number >= least && number <= most))
        fail(ErrorKind::bad_input, where, "is {}, expected {} to {}", number, least, most);
}

std::optional<double> MergeSetting::at(std::string_view tensor, double place) const {
  for (const Choice& choice : choices_) {
    if (!choice.filter.empty() && tensor.find(choice.filter) == std::string_view::npos) continue;
    const double scaled = place * static_cast<double>(choice.gradient.size() - 1);
    const auto first = static_cast<size_t>(scaled);
    const size_t second = std::min(choice.gradient.size() - 1, first + 1);
    const double share = scaled - static_cast<double>(first);
    return (1 - share) * choice.gradient[first] + share * choice.gradient[second];
  }
  return {};
}

std::vector<std::string> merge_recipe_keys() {
  return {"merge_method", "base_model", "dtype",  "out_dtype", "tokenizer_source",
          "parameters",   "modules",    "models", "slices"};
}

MergeRecipe read_merge_recipe(const Json& recipe, const std::string& where) { return Reader(recipe, where).read(); }

}  // namespace coterie::surgery
