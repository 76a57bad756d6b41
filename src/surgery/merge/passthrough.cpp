#include "surgery/merge/passthrough.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/memory.h"
#include "families/ensemble/same_tokenizer.h"
#include "families/family.h"
#include "models/account.h"
#include "surgery/merge/merge_values.h"
#include "surgery/new_model.h"
#include "surgery/published_mixture.h"
#include "surgery/same_model.h"
#include "surgery/write/roles.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using base::Json;
using checkpoint::TensorInfo;
using checkpoint::TensorToWrite;
using families::Model;

// Keys of configs that list what each layer is, and those that list the numbers of some layers.
constexpr std::string_view kByLayer[] = {"layer_types", "layers_block_type", "mlp_layer_types", "mixer", "ffn"};
constexpr std::string_view kLayerNumbers[] = {"mlp_only_layers"};

class Passthrough {
 public:
  Passthrough(ops::Context& context, const MergeRecipe& recipe, MergeSources& sources, const MergeOptions& options)
      : context_(context), recipe_(recipe), options_(options) {
    for (const MergeSlice& slice : recipe.slices) {
      const MergeSlice::Source& source = slice.sources.front();
      const Model& model = sources.open(source.model, source.where);
      const int64_t layers = layers_of(model), end = slice.end < 0 ? layers : slice.end;
      if (end > layers)
        fail(ErrorKind::bad_input, source.where, "layer_range [{}, {}], but {} has {} layers", slice.first, end,
             model.path.path.string(), layers);
      for (int64_t layer = slice.first; layer < end; ++layer)
        layers_.push_back({&model, layer, static_cast<size_t>(&slice - recipe.slices.data()),
                           end - slice.first > 1
                               ? static_cast<double>(layer - slice.first) / static_cast<double>(end - slice.first - 1)
                               : 1.0});
      if (std::find(models_.begin(), models_.end(), &model) == models_.end()) models_.push_back(&model);
    }
    base_ = recipe.base_model.empty() ? layers_.front().model : &sources.open(recipe.base_model, "base_model");
    for (const Model* model : models_)
      tensors_[model] = tensors_to_keep(*model->source, *model->decoder, base_->decoder->spec().tied_embeddings);
    dtype_ = options.dtype ? options.dtype : recipe.dtype;
    result_.notes = recipe.notes;
    result_.model_type = base_->decoder->spec().family.shown();
    config_ = config();
    spec_ = checked_spec();
  }

  Merged run(const std::filesystem::path& out) {
    NewModel made(context_, out, writing(options_), result_);
    std::vector<TensorToWrite> tensors;
    add_outside(*layers_.front().model, true, tensors);
    for (size_t i = 0; i < layers_.size(); ++i) add_layer(layers_[i], static_cast<int64_t>(i), tensors);
    add_outside(*layers_.back().model, false, tensors);
    int64_t largest = 0;
    for (const TensorToWrite& tensor : tensors) largest = std::max(largest, tensor::element_count(tensor.shape));
    base::require_memory(largest * static_cast<int64_t>(sizeof(float)), "the largest tensor in f32",
                         "a machine with more memory is needed");
    made.write(spec_, config_, *base_, std::move(tensors));
    made.check(*base_);
    made.finish(receipt());
    return std::move(result_);
  }

 private:
  struct Layer {
    const Model* model;
    int64_t number;  // in its model
    size_t slice;
    double along;  // 0 in the slice's first layer, 1 in its last
  };

  static int64_t layers_of(const Model& model) { return std::ssize(model.decoder->spec().blocks); }

  // The base model's, with the number of layers and what is said of each.
  Json config() const {
    Json config = families::read_text_config(base_->path.config);
    const auto count = std::ssize(layers_);
    config["num_hidden_layers"] = count;
    if (config.contains("n_layer")) config["n_layer"] = count;
    for (const std::string_view key : kByLayer) {
      if (!config.contains(key) || !config[key].is_array()) continue;
      Json list = Json::array();
      for (const Layer& layer : layers_) {
        const Json theirs = families::read_text_config(layer.model->path.config);
        const Json* const said = theirs.contains(key) ? &theirs[key] : nullptr;
        if (!said || !said->is_array() || said->empty())
          fail(ErrorKind::unsupported, layer.model->path.config.string(), "there is no list {}, which {} has", key,
               base_->path.config.string());
        list.push_back((*said)[static_cast<size_t>(layer.number) % said->size()]);
      }
      config[key] = list;
    }
    for (const std::string_view key : kLayerNumbers) {
      if (!config.contains(key)) continue;
      Json list = Json::array();
      for (size_t i = 0; i < layers_.size(); ++i) {
        const Json theirs = families::read_text_config(layers_[i].model->path.config).value(key, Json::array());
        if (std::find(theirs.begin(), theirs.end(), Json(layers_[i].number)) != theirs.end()) list.push_back(i);
      }
      config[key] = list;
    }
    if (dtype_) config.erase("dtype"), config["torch_dtype"] = dtype_word(*dtype_);
    return config;
  }

  // What the written config says, compared with the layers it is put over.
  models::ModelSpec checked_spec() const {
    const std::string where = base_->path.config.string();
    models::ModelSpec read = families::read_config(config_, where, false);
    models::ModelSpec expected = base_->decoder->spec();
    expected.blocks.clear();
    for (const Layer& layer : layers_)
      expected.blocks.push_back(layer.model->decoder->spec().blocks[static_cast<size_t>(layer.number)]);
    read.tied_embeddings = expected.tied_embeddings;  // what the files say of it counts (families::bind_decoder)
    require_same(expected, read, where,
                 {"of the base model cannot say these layers: it differs in the", "in the slices", "by the config",
                  "choose layers that follow the pattern of the base model's"});
    for (const Model* model : models_) {
      if (!model->decoder->spec().shared.empty())
        fail(ErrorKind::unsupported, model->path.path.string(),
             "its layers share blocks, which belong to no slice of them");
      models::ModelSpec theirs = model->decoder->spec();
      theirs.blocks = expected.blocks;
      require_same(
          expected, theirs, model->path.path.string(),
          {fmt::format("does not go with {}: it differs in the", base_->path.path.string()), "there", "here", ""});
      if (model != base_) families::require_same_tokenizer(*base_, *model);
    }
    return read;
  }

  std::optional<double> scale(const Layer& layer, const std::string& name) const {
    const MergeSlice& slice = recipe_.slices[layer.slice];
    for (const MergeParameters* parameters :
         {&slice.sources.front().parameters, &slice.parameters, &recipe_.parameters})
      if (parameters->scale)
        if (const auto value = parameters->scale->at(name, layer.along)) return value;
    return {};
  }

  void add(const TensorInfo& info, const std::string& name, const Layer& from, std::vector<TensorToWrite>& out) const {
    const std::optional<double> factor = scale(from, name);
    const bool plain = is_plain_float(info.dtype);
    if (factor && !plain)
      fail(ErrorKind::unsupported, from.model->path.path.string(), "{} is in {}: only f32, f16 and bf16 are scaled",
           info.name, tensor::name(info.dtype));
    const tensor::DType dtype = plain ? dtype_.value_or(info.dtype) : info.dtype;
    const bool as_it_is = !factor && dtype == info.dtype;
    out.push_back({name, dtype, info.shape, [this, info, factor, dtype, as_it_is](const WriteBytes& write) {
                     if (as_it_is) return write(info.bytes);
                     std::vector<float> values = decoded_values(info, context_.pool);
                     for (float& v : values) v = static_cast<float>(static_cast<double>(v) * factor.value_or(1));
                     write_values(values, dtype, context_.pool, write);
                   }});
  }

  void add_layer(const Layer& layer, int64_t number, std::vector<TensorToWrite>& out) const {
    for (const TensorInfo* info : tensors_.at(layer.model)) {
      const LayerInName found = layer_in_name(info->name);
      if (found.layer != layer.number) continue;
      std::string name = info->name;
      add(*info, name.replace(found.first, found.size, std::to_string(number)), layer, out);
    }
  }

  // What is before the layers, or behind them.
  void add_outside(const Model& model, bool before, std::vector<TensorToWrite>& out) const {
    Layer place = before ? layers_.front() : layers_.back();
    place.along = before ? 0 : 1;
    for (const TensorInfo* info : tensors_.at(&model)) {
      if (layer_in_name(info->name).layer >= 0) continue;
      if ((info->name.find("embed") != std::string::npos) == before) add(*info, info->name, place, out);
    }
  }

  Json receipt() const {
    Json slices = Json::array();
    for (const Layer& layer : layers_) slices.push_back({layer.model->name, layer.number});
    Json json = {{"made_by", "coterie merge"}, {"merge_method", "passthrough"},    {"base_model", base_->name},
                 {"layers", slices},           {"model_type", result_.model_type}, {"parameters", result_.parameters},
                 {"notes", result_.notes}};
    if (result_.comparison) json["beside_the_base_model"] = to_json(*result_.comparison);
    return json;
  }

  ops::Context& context_;
  const MergeRecipe& recipe_;
  const MergeOptions& options_;
  std::vector<Layer> layers_;  // of the result
  std::vector<const Model*> models_;
  std::map<const Model*, std::vector<const TensorInfo*>> tensors_;  // of each
  const Model* base_ = nullptr;
  std::optional<tensor::DType> dtype_;
  Json config_;
  models::ModelSpec spec_;
  Merged result_;
};

}  // namespace

Merged merge_passthrough(ops::Context& context, const MergeRecipe& recipe, MergeSources& sources,
                         const std::filesystem::path& out, const MergeOptions& options) {
  return Passthrough(context, recipe, sources, options).run(out);
}

}  // namespace coterie::surgery
