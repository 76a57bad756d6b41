#include "families/prediction.h"

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/weights/binder.h"
#include "families/weights/export.h"
#include "models/bound_decoder.h"

namespace coterie::families {

namespace {

/// How files name what is the head's own.
struct Layout {
  std::string block;  // in the place of a layer's prefix: "model.layers.61."
  std::string embedding_norm, hidden_norm, projection, final_norm;
};

constexpr const char* kOtherForm = "`speculate` ngram needs no head, and draft:MODEL uses another model";
constexpr const char* kKnown = "docs/guides/speculation.md lists the families whose heads can be trained";
constexpr std::string_view kLayer = "{layer}.", kOwnEmbedding = "mtp.embed_tokens.weight";

std::vector<Layout> layouts(const NameTable& names, int64_t layers) {
  const std::vector<NameInFile>* const names_of_norm = names.find("blocks.{layer}.mixer_norm");
  const std::string norm = names_of_norm ? names_of_norm->front().pattern : "model.layers.{layer}.input_layernorm";
  const std::string after = expand(norm.substr(0, norm.find(kLayer) + kLayer.size()), layers);
  const std::string next = after + "nextn.";
  return {
      {after, after + "enorm.weight", after + "hnorm.weight", after + "eh_proj.weight",
       after + "shared_head.norm.weight"},
      {after, next + "enorm.weight", next + "hnorm.weight", next + "eh_proj.weight", next + "shared_head_norm.weight"},
      {"mtp.layers.0.", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.fc.weight",
       "mtp.norm.weight"}};
}

/// Makes the names of a model's block those of the head's, and adds those of what only a head has but its last norm.
void lay_out(const Layout& layout, NameTable& names) {
  move_layer(names, [&](std::string_view) { return layout.block; });
  names.names["prediction.embedding_norm"] = {{layout.embedding_norm}};
  names.names["prediction.hidden_norm"] = {{layout.hidden_norm}};
  names.names["prediction.projection"] = {{layout.projection}};
}

/// Heads that are there under names that only some other family's have.
void refuse_other_forms(const checkpoint::TensorSource& source, const std::string& where) {
  for (const char* name : {"mtp.layers.0.eh_proj.weight", "model.mtp.layers.0.eh_proj.weight"})
    if (source.find(name))
      throw base::Error(
          base::ErrorKind::unsupported, where,
          fmt::format("its head for multi-token prediction ({}) is of a form that is not known of this family", name),
          kOtherForm);
}

/// Makes `names` those of a head as the family's published folders have it: under names of its own; under mtp.*, which
/// its models then have to leave alone; or as a layer after the last.
void lay_out_as_published(const models::ModelSpec& model, NameTable& names) {
  const Family& family = family_of(model);
  if (family.prediction && family.prediction->names)
    return family.prediction->names(names, nullptr, std::ssize(model.blocks));
  const std::vector<Layout> all = layouts(names, std::ssize(model.blocks));
  constexpr std::string_view kWhere = "head for multi-token prediction";
  if (names.is_inert("model.mtp.layers.0.eh_proj.weight") || names.is_inert("model.mtp_block.0.norm.weight"))
    throw base::Error(base::ErrorKind::unsupported, std::string(kWhere),
                      fmt::format("how files of {} name one is not known here", model.family.shown()), kKnown);
  const Layout* layout = &all.back();
  if (!names.is_inert(layout->projection)) {
    if (model.prediction_layers != 1)
      throw base::Error(base::ErrorKind::bad_input, std::string(kWhere),
                        fmt::format("the config says that the model has {}", model.prediction_layers),
                        fmt::format("give it \"num_nextn_predict_layers\": 1; {}", kKnown));
    layout = &all.front();
  }
  lay_out(*layout, names);
  names.names["final_norm"] = {{layout->final_norm}};
}

}  // namespace

models::ModelSpec prediction_spec(const models::ModelSpec& whole) {
  models::ModelSpec spec = whole;
  const Family& family = family_of(whole);
  const BlockSpec block =
      family.prediction && family.prediction->block ? family.prediction->block(whole) : whole.blocks.back();
  if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer); latent && latent->indexer)
    throw base::Error(base::ErrorKind::unsupported, whole.family.shown(),
                      "its head for multi-token prediction reads what an indexer chose for the layers before it",
                      kOtherForm);
  if (std::holds_alternative<layers::NoMixerSpec>(block.mixer) || std::holds_alternative<layers::NoFfnSpec>(block.ffn))
    throw base::Error(base::ErrorKind::unsupported, whole.family.shown(),
                      "its layers are a mixer or an FFN each, and which of them its head for multi-token prediction is "
                      "made of is not known",
                      kOtherForm);
  spec.blocks = {block};
  spec.shared.clear();
  spec.prediction = whole.final_norm;
  spec.prediction_layers = 0;
  spec.warnings.clear();
  return spec;
}

void require_prediction_names(const models::ModelSpec& model) {
  NameTable names = family_of(model).hugging_face_names();
  lay_out_as_published(model, names);
}

std::vector<checkpoint::TensorToWrite> prediction_tensors_to_write(const models::ModelSpec& model,
                                                                   const models::Decoder& head) {
  NameTable names = family_of(model).hugging_face_names();
  const std::string embedding = names.find("embedding")->front().pattern, out = names.find("head")->front().pattern;
  lay_out_as_published(model, names);
  std::vector<checkpoint::TensorToWrite> tensors = tensors_to_write(head, names);
  std::erase_if(tensors, [&](const auto& tensor) { return tensor.name == embedding || tensor.name == out; });
  return tensors;
}

Model open_prediction_head(const Model& model) {
  const models::ModelSpec& whole = model.decoder->spec();
  Model head;
  head.path = model.path;
  head.source = checkpoint::open_source(model.path);
  head.name = model.name;
  base::require(head.source != nullptr, "prediction head", "of a model without files");
  NameTable names = names_for(whole, *head.source);
  const auto require = [&](bool found, const std::string& missing) {
    if (!found)
      throw base::Error(base::ErrorKind::unsupported, model.path.path.string(),
                        "holds no head for multi-token prediction: there is no " + missing, kOtherForm);
  };
  if (const Family& family = family_of(whole); family.prediction && family.prediction->names) {
    family.prediction->names(names, head.source.get(), std::ssize(whole.blocks));
    const std::string& projection = names.find("prediction.projection")->front().pattern;
    require(head.source->find(projection) != nullptr, projection);
  } else {
    const Layout* layout = nullptr;
    const std::vector<Layout> all = layouts(names, std::ssize(whole.blocks));
    for (const Layout& each : all)
      if (!layout && head.source->find(each.projection)) layout = &each;
    if (!layout) refuse_other_forms(*head.source, model.path.path.string());
    require(layout != nullptr, fmt::format("{}, {} or {}", all[0].projection, all[1].projection, all[2].projection));
    lay_out(*layout, names);
    // Some GGUF files leave it out where it is the model's own.
    if (head.source->find(layout->final_norm)) names.names["final_norm"] = {{layout->final_norm}};
    // Some heads have an embedding of their own (Qwen's mtp_use_dedicated_embeddings).
    if (const std::string own(kOwnEmbedding); layout == &all.back() && head.source->find(own))
      names.names["embedding"] = {{own}};
  }
  names.inert.push_back("*");  // the model's, and heads after the first

  models::ModelSpec spec = prediction_spec(whole);
  const bool tied = spec.tied_embeddings;
  head.decoder = std::make_unique<models::BoundDecoder>(
      std::move(spec), [&](models::Network& network) { return bind(network, *head.source, names, tied); });
  return head;
}

std::unique_ptr<models::BoundDecoder> take_head(Model& head) {
  if (head.source->find(std::string(kOwnEmbedding)))
    throw base::Error(
        base::ErrorKind::unsupported, head.path.path.string(),
        fmt::format("its head for multi-token prediction has an embedding of its own ({}), which training "
                    "here does not keep apart from the model's",
                    kOwnEmbedding));
  auto* const decoder = dynamic_cast<models::BoundDecoder*>(head.decoder.get());
  base::require(decoder != nullptr && decoder->spec().prediction.has_value(), "prediction head", "not one");
  (void)head.decoder.release();
  return std::unique_ptr<models::BoundDecoder>(decoder);
}

}  // namespace coterie::families
