#include "surgery/merge/merge_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/memory.h"
#include "families/ensemble/same_tokenizer.h"
#include "families/family.h"
#include "models/account.h"
#include "surgery/merge/merge_values.h"
#include "surgery/merge/passthrough.h"
#include "surgery/new_model.h"
#include "surgery/published_mixture.h"
#include "surgery/same_model.h"
#include "surgery/write/roles.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using checkpoint::TensorInfo;
using checkpoint::TensorToWrite;
using families::Model;

class ModelMerging {
 public:
  ModelMerging(ops::Context& context, const MergeRecipe& recipe, MergeSources& sources, const MergeOptions& options)
      : context_(context),
        recipe_(recipe),
        options_(options),
        base_(recipe.base_model.empty() ? sources.open(recipe.slices.front().sources.front().model,
                                                       recipe.slices.front().sources.front().where)
                                        : sources.open(recipe.base_model, "base_model")) {
    rule_ = recipe.rule;
    rule_.seed = options.seed;
    result_.notes = recipe.notes;
    result_.model_type = base_.decoder->spec().family.shown();
    dtype_ = options.dtype ? options.dtype : recipe.dtype;
    for (const MergeSlice& slice : recipe.slices) {
      std::vector<const Model*>& models = models_.emplace_back();
      for (const MergeSlice::Source& source : slice.sources) {
        models.push_back(&sources.open(source.model, source.where));
        require_goes_with_base(*models.back());
      }
    }
    const auto layers = std::ssize(base_.decoder->spec().blocks);
    const int64_t end = recipe.slices.back().end;
    if (end >= 0 && end != layers)
      fail(ErrorKind::unsupported, "slices",
           "they end at layer {}, the base model has {}: layers keep their order, none is left out or repeated", end,
           layers);
  }

  Merged run(const std::filesystem::path& out) {
    NewModel made(context_, out, writing(options_), result_);
    std::vector<TensorToWrite> tensors;
    for (const TensorInfo* info : tensors_to_keep(*base_.source, *base_.decoder, base_.decoder->spec().tied_embeddings))
      tensors.push_back(merged(*info));
    require_room(tensors);
    base::Json config = families::read_text_config(base_.path.config);
    if (dtype_) config.erase("dtype"), config["torch_dtype"] = dtype_word(*dtype_);
    made.write(base_.decoder->spec(), config, base_, std::move(tensors));
    made.check(base_);
    made.finish(receipt());
    return std::move(result_);
  }

 private:
  void require_goes_with_base(const Model& model) {
    if (&model == &base_ || std::find(compared_.begin(), compared_.end(), &model) != compared_.end()) return;
    compared_.push_back(&model);
    require_same(
        base_.decoder->spec(), model.decoder->spec(), model.path.path.string(),
        {fmt::format("is not of the shape of {}: it differs in the", base_.path.path.string()), "there", "here", ""});
    families::require_same_tokenizer(base_, model);
  }

  struct Place {
    size_t slice = 0;
    double along = 0;  // 0 in the slice's first layer, 1 in its last
  };

  // By the number behind "layers.": embeddings come before the layers, everything else after them.
  Place place_of(const std::string& name) const {
    const auto layers = std::ssize(base_.decoder->spec().blocks);
    if (const int64_t layer = layer_in_name(name).layer; layer >= 0)
      for (size_t s = 0; s < recipe_.slices.size(); ++s) {
        const int64_t first = recipe_.slices[s].first;
        const int64_t end = recipe_.slices[s].end < 0 ? layers : recipe_.slices[s].end;
        if (layer < first || layer >= end) continue;
        return {s, end - first > 1 ? static_cast<double>(layer - first) / static_cast<double>(end - first - 1) : 1.0};
      }
    if (name.find("embed") != std::string::npos) return {0, 0.0};
    return {recipe_.slices.size() - 1, 1.0};
  }

  using Setting = std::optional<MergeSetting> MergeParameters::*;
  // The nearest that says it: the source, the slice, the recipe.
  std::optional<double> setting(Setting which, const MergeParameters* source, const MergeSlice& slice,
                                const std::string& name, double along) const {
    for (const MergeParameters* parameters : {source, &slice.parameters, &recipe_.parameters})
      if (parameters && (parameters->*which))
        if (const auto value = (*(parameters->*which)).at(name, along)) return value;
    return {};
  }

  double needed(std::optional<double> value, std::string_view key, const std::string& where,
                const std::string& name) const {
    if (!value) fail(ErrorKind::bad_input, where, "{} is not given for {}", key, name);
    return *value;
  }

  const TensorInfo& in(const Model& model, const TensorInfo& like) const {
    const TensorInfo* info = model.source->find(like.name);
    if (!info)
      throw base::Error(ErrorKind::unsupported, model.path.path.string(),
                        fmt::format("there is no {}, which {} has", like.name, base_.path.path.string()),
                        "tensors are merged by their names in the files");
    if (info->shape != like.shape)
      fail(ErrorKind::unsupported, model.path.path.string(), "{} is {}, expected {}", like.name,
           tensor::to_string(info->shape), tensor::to_string(like.shape));
    for (const TensorInfo* one : {info, &like})
      if (!is_plain_float(one->dtype))
        fail(ErrorKind::unsupported, model.path.path.string(), "{} is in {}: only f32, f16 and bf16 are merged",
             like.name, tensor::name(one->dtype));
    return *info;
  }

  // Room for the largest tensor: the base model's values, each model's, and the result.
  void require_room(const std::vector<TensorToWrite>& tensors) const {
    int64_t largest = 0;
    size_t models = 0;
    for (const TensorToWrite& tensor : tensors) largest = std::max(largest, tensor::element_count(tensor.shape));
    for (const MergeSlice& slice : recipe_.slices) models = std::max(models, slice.sources.size());
    const size_t copies = models + 2 + (traits_of(rule_.method).drop == MergeTraits::Drop::outliers ? 1 : 0);
    base::require_memory(largest * static_cast<int64_t>(copies * sizeof(float)),
                         fmt::format("the largest tensor of {} models", models + 1),
                         "merge fewer models at once, one after the other");
  }

  struct Input {
    const TensorInfo* info;
    MergeInput says = {};  // without values
  };

  void check_share(const MergeRule& rule, const MergeInput& says, const std::string& where,
                   const std::string& name) const {
    if (!(says.density > 0 && says.density <= 1))
      fail(ErrorKind::bad_input, where, "density is {} for {}, expected more than 0 and at most 1", says.density, name);
    if (!(says.gamma >= 0 && says.gamma < 1))
      fail(ErrorKind::bad_input, where, "gamma is {} for {}, expected at least 0 and less than 1", says.gamma, name);
    if (traits_of(rule.method).drop == MergeTraits::Drop::by_rank && says.density < 1 &&
        !(says.epsilon >= 0 && says.density - says.epsilon > 0 && says.density + says.epsilon < 1))
      fail(
          ErrorKind::bad_input, where,
          "epsilon is {} for {}: with a density of {} the probabilities go from {:g} to {:g}, expected between 0 and 1",
          says.epsilon, name, says.density, says.density - says.epsilon, says.density + says.epsilon);
  }

  TensorToWrite merged(const TensorInfo& info) const {
    const auto [at, along] = place_of(info.name);
    const MergeSlice& slice = recipe_.slices[at];
    MergeRule rule = rule_;
    std::vector<Input> inputs;
    for (size_t s = 0; s < slice.sources.size(); ++s) {
      const MergeSlice::Source& source = slice.sources[s];
      const Model& model = *models_[at][s];
      const TensorInfo& tensor = in(model, info);
      if (rule.method != MergeMethod::linear && &model == &base_) continue;
      Input input{&tensor};
      const auto said = [&](Setting which) { return setting(which, &source.parameters, slice, info.name, along); };
      if (traits_of(rule.method).weights)
        input.says.weight = needed(said(&MergeParameters::weight), "weight", source.where, info.name);
      input.says.density = said(&MergeParameters::density).value_or(input.says.density);
      input.says.gamma = said(&MergeParameters::gamma).value_or(input.says.gamma);
      input.says.epsilon = said(&MergeParameters::epsilon).value_or(input.says.epsilon);
      check_share(rule, input.says, source.where, info.name);
      inputs.push_back(input);
    }
    if (rule.method == MergeMethod::model_stock && inputs.size() < 2)
      fail(ErrorKind::bad_input, "models", "model_stock needs two models or more that are not the base model");
    rule.shape = info.shape;
    if (rule.method == MergeMethod::slerp || rule.method == MergeMethod::nearswap)
      rule.t = needed(setting(&MergeParameters::t, nullptr, slice, info.name, along), "t", "parameters", info.name);
    const tensor::DType dtype = dtype_.value_or(info.dtype);
    return {info.name, dtype, info.shape,
            [this, info, rule, dtype, inputs = std::move(inputs)](const WriteBytes& write) {
              write_values(compute(info, rule, inputs), dtype, context_.pool, write);
            }};
  }

  std::vector<float> compute(const TensorInfo& info, const MergeRule& rule, const std::vector<Input>& inputs) const {
    threads::Pool& pool = context_.pool;
    std::vector<std::vector<float>> values;
    std::vector<MergeInput> merged;
    for (const Input& input : inputs) values.push_back(decoded_values(*input.info, pool));
    for (size_t i = 0; i < inputs.size(); ++i) {
      merged.push_back(inputs[i].says);
      merged.back().values = values[i];
    }
    std::vector<float> out(static_cast<size_t>(tensor::element_count(info.shape)));
    if (rule.method == MergeMethod::linear) {
      merge_linear(merged, rule.normalize, out, pool);
      return out;
    }
    const std::vector<float> base = decoded_values(info, pool);
    switch (rule.method) {
      // A slerp of the base model with itself.
      case MergeMethod::slerp: merge_slerp(base, values.empty() ? base : values.front(), rule.t, out, pool); break;
      case MergeMethod::nearswap:
        merge_nearswap(base, values.empty() ? base : values.front(), rule.t, out, pool);
        break;
      case MergeMethod::model_stock: merge_stock(rule, base, merged, out, pool); break;
      default: merge_changes(rule, base, merged, info.name, out, pool);
    }
    return out;
  }

  base::Json receipt() const {
    base::Json names = base::Json::array();
    for (const Model* model : compared_) names.push_back(model->name);
    base::Json json = {
        {"made_by", "coterie merge"},       {"merge_method", merge_method_names()[static_cast<size_t>(rule_.method)]},
        {"base_model", base_.name},         {"with", names},
        {"model_type", result_.model_type}, {"seed", options_.seed},
        {"parameters", result_.parameters}, {"notes", result_.notes}};
    if (result_.comparison) json["beside_the_base_model"] = to_json(*result_.comparison);
    return json;
  }

  ops::Context& context_;
  const MergeRecipe& recipe_;
  const MergeOptions& options_;
  const Model& base_;
  MergeRule rule_;
  std::optional<tensor::DType> dtype_;
  std::vector<std::vector<const Model*>> models_;  // by slice and source
  std::vector<const Model*> compared_;             // with the base model
  Merged result_;
};

}  // namespace

Merged merge_models(ops::Context& context, const MergeRecipe& recipe, MergeSources& sources,
                    const std::filesystem::path& out, const MergeOptions& options) {
  if (recipe.rule.method == MergeMethod::passthrough) return merge_passthrough(context, recipe, sources, out, options);
  return ModelMerging(context, recipe, sources, options).run(out);
}

}  // namespace coterie::surgery
