#include "families/open.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/run_layout.h"
#include "families/adapter/adapter.h"
#include "families/family.h"
#include "families/gguf/gguf_vocabulary.h"
#include "families/weights/binder.h"
#include "families/weights/export.h"
#include "layers/moe/routers/kind.h"
#include "models/bound_decoder.h"

namespace coterie::families {

using base::Error;
using base::ErrorKind;

namespace {

using Selection = layers::RouterSpec::Selection;

/// What --router asks for.
void change(const OpenOptions& options, layers::MoeSpec& moe) {
  layers::RouterSpec& router = moe.router;
  constexpr std::string_view kOption = "router";
  if (options.router_sample) {
    if (router.selection == Selection::sparsemixer)
      base::fail(ErrorKind::unsupported, kOption, "SparseMixer's weights are those of its own choice");
    if (router.selection != Selection::top_k && router.selection != Selection::sample)
      base::fail(ErrorKind::unsupported, kOption,
                 "sample works with routers that choose the best k; these choose by {}",
                 layers::kind_of(router.selection).name);
    router.selection = Selection::sample;
    router.temperature = *options.router_sample;
  }
  if (options.router_noise && !router.noise)
    base::fail(ErrorKind::unsupported, kOption, "this model's routers have no noise: it takes a map of its own");
  router.always.noise = options.router_noise;
  if (options.router_jitter) {
    // E is in the place of what the model has, whether it shakes what router and experts read (moe.jitter), what the
    // router reads, or both (PhiMoE); never on top of it.
    if (const float asked = *options.router_jitter; asked > 0) {
      if (moe.jitter == 0 || router.jitter > 0) router.jitter = asked;
      if (moe.jitter > 0) moe.jitter = asked;
    }
    if (router.jitter == 0 && moe.jitter == 0)
      base::fail(ErrorKind::unsupported, kOption, "this model's routers have no jitter; say how much: jitter:0.01");
    router.always.jitter = true;
  }
  if (options.router_capacity) {
    if (options.router_limit) router.capacity = options.router_limit;
    if (!router.capacity)
      base::fail(ErrorKind::unsupported, kOption, "this model's routers have no capacity; say how much: capacity:1.25");
    router.always.capacity = true;
  }
}

void warn_of(models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (!moe) continue;
    const layers::RouterKind& kind = layers::kind_of(moe->router.selection);
    if (!kind.causal)
      spec.warnings.push_back(fmt::format(
          "routing by {} is not causal: a token's experts depend on the tokens after it, so that text generated "
          "token by token is not what the model computes of a whole text",
          kind.name));
    if (moe->router.always.capacity)
      spec.warnings.push_back(
          "a capacity counts the tokens that are evaluated together: results depend on what else is in a step");
    return;
  }
}

}  // namespace

void apply(const OpenOptions& options, models::ModelSpec& spec) {
  models::apply(options.rope, spec);
  const char* const option = options.experts_per_token ? "experts_per_token" : "router";
  bool routed = false;
  for (models::BlockSpec& block : spec.blocks) {
    auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (!moe) continue;
    routed = true;
    if (options.experts_per_token) moe->router.experts_per_token = *options.experts_per_token;
    if (options.changes_routers()) change(options, *moe);
    if (options.experts_per_token || options.changes_routers()) layers::check(moe->router, option);
  }
  if (!routed && (options.experts_per_token || options.changes_routers()))
    base::fail(ErrorKind::bad_input, option, "a {} model has no routers", spec.family.shown());
  warn_of(spec);
}

models::ModelSpec read_spec(const checkpoint::ModelPath& path, const checkpoint::TensorSource* source,
                            const OpenOptions& options) {
  models::ModelSpec spec = path.kind == checkpoint::ModelPath::Kind::gguf_file
                               ? read_gguf(*source, options.strict)
                               : read_config(base::read_json(path.config), path.config.string(), options.strict);
  apply(options, spec);
  return spec;
}

models::ModelSpec read_spec(const checkpoint::ModelPath& path, const OpenOptions& options) {
  if (path.kind != checkpoint::ModelPath::Kind::gguf_file) return read_spec(path, nullptr, options);
  return read_spec(path, checkpoint::open_source(path).get(), options);
}

namespace {

/// transformers 5 ties a head it finds in the file only if it equals the embedding, and takes the only one there is
/// for both.
void decide_tying(models::ModelSpec& spec, const checkpoint::TensorSource& source, NameTable& names,
                  std::vector<std::string>& warnings) {
  if (!spec.tied_embeddings) return;
  const std::string head_name = names.find("head")->front().pattern;
  const std::string embedding_name = names.find("embedding")->front().pattern;
  const checkpoint::TensorInfo* head = source.find(head_name);
  const checkpoint::TensorInfo* embedding = source.find(embedding_name);
  if (!head) return;
  if (!embedding) {
    names.names["embedding"] = {{head_name}};
  } else if (head->dtype != embedding->dtype || head->shape != embedding->shape ||
             !std::equal(head->bytes.begin(), head->bytes.end(), embedding->bytes.begin(), embedding->bytes.end())) {
    spec.tied_embeddings = false;
    warnings.push_back(source.where() + ": the config ties the embeddings, but " + head_name + " differs from " +
                       embedding_name + "; both are used, as the reference does");
  }
}

/// The tensors of layers after the last that take no part are left alone, whatever they are.
void leave_prediction_layers(const models::ModelSpec& spec, NameTable& names) {
  const std::string norm = names.find("blocks.{layer}.mixer_norm")->front().pattern;
  constexpr std::string_view kLayer = "{layer}.";
  const std::string prefix = norm.substr(0, norm.find(kLayer) + kLayer.size());
  for (int64_t i = 0; i < spec.prediction_layers; ++i)
    names.inert.push_back(expand(prefix, static_cast<int64_t>(spec.blocks.size()) + i) + "*");
}

}  // namespace

std::unique_ptr<models::Decoder> bind_decoder(
    const models::ModelSpec& given, const checkpoint::TensorSource& source, std::vector<std::string>* warnings,
    const std::function<bool(int64_t layer, int64_t expert, int64_t experts)>& owns_expert) {
  models::ModelSpec spec = given;
  NameTable names = names_for(spec, source);
  std::vector<std::string> found;
  decide_tying(spec, source, names, found);
  if (const Family& family = family_of(spec); family.fit_to_tensors) family.fit_to_tensors(spec, source, names, found);
  leave_prediction_layers(spec, names);
  const bool tied = spec.tied_embeddings;
  auto decoder = std::make_unique<models::BoundDecoder>(std::move(spec), [&](models::Network& network) {
    return families::bind(network, source, names, tied, owns_expert);
  });
  found.insert(found.end(), decoder->warnings().begin(), decoder->warnings().end());
  if (warnings) warnings->insert(warnings->end(), found.begin(), found.end());
  return decoder;
}

namespace {

template <typename T>
const T* meta(const checkpoint::TensorSource& source, std::string_view key) {
  const auto found = source.metadata().find(key);
  return found == source.metadata().end() ? nullptr : std::get_if<T>(&found->second);
}

std::string token_text(const std::optional<text::Tokenizer>& tokenizer, std::optional<text::TokenId> id) {
  return tokenizer && id ? tokenizer->token(*id).value_or("") : "";
}

void open_gguf_text(Model& model) {
  const std::optional<text::GgufVocabulary> vocabulary = gguf_vocabulary(*model.source);
  const std::string* chat_template = meta<std::string>(*model.source, "tokenizer.chat_template");
  if (const auto whole = vocabulary ? std::nullopt : gguf_whole_tokenizer(*model.source)) {
    model.tokenizer = text::tokenizer_of(*whole, model.source->where());
    if (chat_template)
      model.chat_template.emplace(*chat_template, token_text(model.tokenizer, whole->bos),
                                  token_text(model.tokenizer, whole->eos), model.source->where());
    return;
  }
  if (!vocabulary) {
    model.no_tokenizer = model.source->where() + ": the file holds no tokenizer";
    return;
  }
  try {
    model.tokenizer = text::Tokenizer::from_gguf(*vocabulary, model.source->where());
  } catch (const Error& error) {
    // A model can be measured and compared without text; run and chat repeat this sentence.
    model.no_tokenizer = error.what();
  }
  if (chat_template)
    model.chat_template.emplace(*chat_template, token_text(model.tokenizer, vocabulary->bos),
                                token_text(model.tokenizer, vocabulary->eos), model.source->where());
}

void open_folder_text(Model& model) {
  const std::filesystem::path folder = model.path.config.parent_path();
  if (!std::filesystem::exists(folder / "tokenizer.json")) {
    model.no_tokenizer = folder.string() + ": there is no tokenizer.json";
    return;
  }
  model.tokenizer = text::Tokenizer::load(folder);
  model.chat_template = text::ChatTemplate::load(folder);
}

}  // namespace

Model open_model(std::unique_ptr<checkpoint::TensorSource> source, const OpenOptions& options) {
  Model model;
  model.source = std::move(source);
  models::ModelSpec spec = read_gguf(*model.source, options.strict);
  apply(options, spec);
  base::require(options.adapter.empty(), "open_model", "adapters are attached to models that are opened by their path");
  model.warnings = spec.warnings;
  model.decoder = bind_decoder(spec, *model.source, &model.warnings, options.owns_expert);
  if (const auto* name = meta<std::string>(*model.source, "general.name")) model.name = *name;
  open_gguf_text(model);
  return model;
}

namespace {

[[noreturn]] void refuse_config_alone(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error))
    throw Error(ErrorKind::not_found, path.string(), "names a config, which has no weights",
                fmt::format("name its folder, {}; inspect works on a config alone",
                            path.has_parent_path() ? path.parent_path().string() : "."));
  const std::string run = checkpoint::run_hint(path);
  throw Error(ErrorKind::not_found, path.string(), "there are no weights beside this config",
              !run.empty()
                  ? run
                  : "inspect works on a config alone; to run a model its safetensors files must be in the same folder");
}

}  // namespace

Model open_model(const std::filesystem::path& path, const OpenOptions& options) {
  Model model;
  model.path = checkpoint::resolve_model(path);
  model.source = checkpoint::open_source(model.path);
  if (!model.source) refuse_config_alone(path);
  const models::ModelSpec spec = read_spec(model.path, model.source.get(), options);
  model.warnings = spec.warnings;
  model.decoder = bind_decoder(spec, *model.source, &model.warnings, options.owns_expert);
  if (!options.adapter.empty()) {
    model.adapter = std::make_shared<Adapter>(Adapter::load(*model.decoder, options.adapter));
    model.adapter->attach_to(*model.decoder, options.adapter_factor);
  }
  const bool gguf = model.source->format() == checkpoint::Format::gguf;
  const auto* name = meta<std::string>(*model.source, gguf ? "general.name" : kNameKey);
  const std::filesystem::path absolute = std::filesystem::absolute(path).lexically_normal();
  model.name = name && !name->empty()    ? *name
               : absolute.has_filename() ? absolute.filename().string()
                                         : absolute.parent_path().filename().string();
  gguf ? open_gguf_text(model) : open_folder_text(model);
  return model;
}

}  // namespace coterie::families
