#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/family.h"
#include "families/recommended_sampling.h"
#include "families/weights/export.h"
#include "surgery/same_model.h"
#include "surgery/write/file_plan.h"
#include "surgery/write/folder.h"
#include "text/gguf_export.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::Json;
using models::ModelSpec;

constexpr std::string_view kConfig = "the config.json that would be written";

std::string string_of(const checkpoint::Metadata& metadata, std::string_view key) {
  const auto found = metadata.find(key);
  const auto* text = found == metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
  return text ? *text : std::string();
}

/// The config of a GGUF: of the model_types its architecture may be, the first that says the model.
Json config_of_gguf(const families::Model& model, ModelSpec& read) {
  const ModelSpec& spec = model.decoder->spec();
  const std::string key = families::config_key_in_gguf(spec.family.architecture);
  if (const std::string own = string_of(model.source->metadata(), key); !own.empty()) {
    read = spec;
    return base::parse_json(own, key);
  }
  const std::vector<const families::Family*> candidates = families::families_saying(spec);
  if (candidates.empty())
    throw base::Error(ErrorKind::unsupported, model.source->where(),
                      fmt::format("no config.json is made for the architecture {}", spec.family.architecture),
                      "one is made for " + families::written_model_types());
  std::optional<base::Error> refused;
  for (const families::Family* family : candidates) try {
      Json config = families::write_config(*family, spec);
      read = families::read_config(config, std::string(kConfig), false);
      require_same(spec, read, model.source->where(),
                   {.cannot = fmt::format("a config.json of model_type {} cannot say the", family->model_type),
                    .hint = "the model runs as it is"});
      return config;
    } catch (const base::Error& error) {
      if (!refused) refused = error;
    }
  throw *refused;
}

void add_text_of_gguf(const families::Model& model, FilePlan& plan) {
  if (!model.tokenizer) {
    plan.notes.push_back("no tokenizer is written: " + model.no_tokenizer);
    return;
  }
  const std::string whole = string_of(model.source->metadata(), "tokenizer.huggingface.json");
  const text::Tokenizer& tokenizer = *model.tokenizer;
  plan.files["tokenizer.json"] = whole.empty() ? text::tokenizer_json(tokenizer) : whole;
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", model.decoder->spec().context}};
  const std::vector<text::TokenId>& ends = tokenizer.end_tokens();
  Json generation = {{"_from_model_config", false}};
  if (tokenizer.bos()) {
    config["bos_token"] = tokenizer.token(*tokenizer.bos()).value_or("");
    generation["bos_token_id"] = plan.config["bos_token_id"] = *tokenizer.bos();
  }
  if (!ends.empty()) {
    config["eos_token"] = tokenizer.token(ends.front()).value_or("");
    generation["eos_token_id"] = ends.size() == 1 ? Json(ends.front()) : Json(ends);
    plan.config["eos_token_id"] = ends.front();
  }
  if (model.chat_template) plan.files["chat_template.jinja"] = model.chat_template->source();
  families::add_sampling(families::recommended_sampling(model), generation);
  plan.files["tokenizer_config.json"] = config.dump(2) + "\n";
  plan.files["generation_config.json"] = generation.dump(2) + "\n";
}

}  // namespace

FilePlan plan_folder(const families::Model& model, bool tokenizer) {
  FilePlan plan;
  const ModelSpec& spec = model.decoder->spec();
  const bool gguf = model.source->format() == checkpoint::Format::gguf;
  ModelSpec read = spec;
  plan.config = gguf ? config_of_gguf(model, read) : families::read_text_config(model.path.config);
  const std::string type = plan.config.value("model_type", spec.family.model_type);
  const families::NameTable names = families::family_of_model_type(type, kConfig).hugging_face_names();
  plan.roles = roles_to_write(*model.decoder, names);
  plan.tensors = families::tensors_to_write(*model.decoder, names);
  for (const checkpoint::TensorToWrite& tensor : plan.tensors) {
    const Change change = change_between(spec, read, plan.roles.at(tensor.name));
    if (!change.none()) plan.changes[tensor.name] = change;
  }
  if (!tokenizer) return plan;
  if (gguf) {
    add_text_of_gguf(model, plan);
    return plan;
  }
  plan.files = text_files(model.path.config.parent_path());
  return plan;
}

}  // namespace coterie::surgery
