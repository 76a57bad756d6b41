#include "families/prediction.h"

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/weights/binder.h"
#include "models/bound_decoder.h"

namespace coterie::families {

namespace {

/// How files name what is the head's own.
struct Layout {
  std::string block;  // in the place of a layer's prefix: "model.layers.61."
  std::string embedding_norm, hidden_norm, projection, final_norm;
};

std::vector<Layout> layouts(const NameTable& names, int64_t layers) {
  constexpr std::string_view kLayer = "{layer}.";
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

}  // namespace

Model open_prediction_head(const Model& model) {
  constexpr std::string_view kLayer = "{layer}.";
  const models::ModelSpec& whole = model.decoder->spec();
  Model head;
  head.path = model.path;
  head.source = checkpoint::open_source(model.path);
  head.name = model.name;
  base::require(head.source != nullptr, "prediction head", "of a model without files");
  NameTable names = names_for(whole, *head.source);
  const Layout* layout = nullptr;
  const std::vector<Layout> all = layouts(names, std::ssize(whole.blocks));
  for (const Layout& each : all)
    if (!layout && head.source->find(each.projection)) layout = &each;
  if (!layout)
    throw base::Error(base::ErrorKind::unsupported, model.path.path.string(),
                      fmt::format("holds no head for multi-token prediction: there is no {}, {} or {}",
                                  all[0].projection, all[1].projection, all[2].projection),
                      "`speculate` ngram needs none, and draft:MODEL uses another model");
  for (auto& [path, patterns] : names.names) {
    if (!path.starts_with("blocks.{layer}.")) continue;
    for (NameInFile& name : patterns)
      if (const size_t at = name.pattern.find(kLayer); at != std::string::npos)
        name.pattern = layout->block + name.pattern.substr(at + kLayer.size());
  }
  names.names["prediction.embedding_norm"] = {{layout->embedding_norm}};
  names.names["prediction.hidden_norm"] = {{layout->hidden_norm}};
  names.names["prediction.projection"] = {{layout->projection}};
  // Some GGUF files leave it out where it is the model's own.
  if (head.source->find(layout->final_norm)) names.names["final_norm"] = {{layout->final_norm}};
  // Some heads have an embedding of their own (Qwen's mtp_use_dedicated_embeddings).
  if (const std::string own = "mtp.embed_tokens.weight"; layout == &all.back() && head.source->find(own))
    names.names["embedding"] = {{own}};
  names.inert.push_back("*");  // the model's, and heads after the first

  models::ModelSpec spec = whole;
  const Family& family = family_of(whole);
  const size_t like = family.prediction_block ? family.prediction_block(whole) : whole.blocks.size() - 1;
  if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&whole.blocks[like].mixer);
      latent && latent->indexer)
    throw base::Error(base::ErrorKind::unsupported, model.name,
                      "its head for multi-token prediction reads what an indexer chose for the layers before it",
                      "`speculate` ngram needs no head");
  spec.blocks = {whole.blocks[like]};
  spec.shared.clear();
  spec.prediction = whole.final_norm;
  spec.prediction_layers = 0;
  spec.warnings.clear();
  const bool tied = spec.tied_embeddings;
  head.decoder = std::make_unique<models::BoundDecoder>(
      std::move(spec), [&](models::Network& network) { return bind(network, *head.source, names, tied); });
  return head;
}

}  // namespace coterie::families
