#include "families/family.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "checkpoint/quantization.h"
#include "families/config/config_reader.h"
#include "families/gguf/metadata_reader.h"
#include "families/known/families.h"

namespace coterie::families {

namespace {

using base::Error;
using base::ErrorKind;

// Where several families share a GGUF architecture, the first reads it.
constexpr const Family* kFamilies[] = {
    &kLlama,       &kMistral,       &kQwen2,
    &kQwen3,       &kMixtral,       &kOlmoe,
    &kQwen2Moe,    &kQwen3Moe,      &kGemma2,
    &kGemma3,      &kPhi3,          &kOlmo2,
    &kGranite,     &kGraniteMoe,    &kGraniteMoeShared,
    &kGptOss,      &kPhimoe,        &kMamba,
    &kFalconMamba, &kMamba2,        &kJamba,
    &kZamba,       &kZamba2,        &kGraniteMoeHybrid,
    &kDeepseekV2,  &kDeepseekV3,    &kGlm4Moe,
    &kDots1,       &kGlm4MoeLite,   &kKimiK2,
    &kMiniMaxM2,   &kErnie45Moe,    &kMellum,
    &kExaoneMoe,   &kSolarOpen,     &kHyV3,
    &kFlexOlmo,    &kGraniteMoeSwa, &kHunyuanV1Moe,
    &kQwen3VlMoe,  &kQwen3OmniMoe,  &kLlama4,
    &kJetMoe,      &kDbrx,          &kBailingMoeV2,
    &kBailingMoe,  &kSarvamMoe,     &kSarvamMla,
    &kQwen3Next,   &kQwen35Moe,     &kQwen35,
    &kKimiLinear,  &kBailingHybrid, &kLfm2,
    &kLfm2Moe,     &kNemotronH,     &kNemotronHDense,
    &kAfmoe,       &kLaguna,        &kGemma4,
    &kMiMoV2Flash, &kLongcatFlash,  &kMiniMax,
    &kStep3p5,     &kDeepseekV32,   &kGlmMoeDsa,
    &kCoterie,
};

std::string join(std::string (*of)(const Family&)) {
  std::string list;
  for (const Family* family : kFamilies) {
    const std::string name = of(*family);
    if (!name.empty() && (", " + list + ",").find(", " + name + ",") == std::string::npos)
      list += (list.empty() ? "" : ", ") + name;
  }
  return list;
}

/// `keys`: whose names a key may have been meant for.
void report_unread(const std::vector<std::string>& unread, const std::string& where, bool strict, ModelSpec& spec,
                   const base::JsonReader* keys = nullptr) {
  for (const std::string& key : unread) {
    if (const std::string meant = strict && keys ? keys->meant(key) : ""; strict)
      throw Error(ErrorKind::unsupported, where, "key \"" + key + "\" is not known",
                  (meant.empty() ? "" : meant + " Or ") +
                      "remove it; run, eval and inspect only warn about it without `strict`");
    spec.warnings.push_back(where + ": key \"" + key + "\" is not known and has no effect");
  }
}

[[noreturn]] void refuse(std::string_view key, std::string_view name, std::string_view missing, std::string_view where,
                         const std::string& supported) {
  const std::string needs = missing.empty() ? "" : fmt::format(" yet: it needs {}", missing);
  throw Error(ErrorKind::unsupported, std::string(where),
              fmt::format("{} \"{}\" is not supported{}; supported are {}", key, name, needs, supported));
}

/// What the names of a text model begin with in the files of a multimodal one, in the place of "model." and before the
/// head's.
struct TextPrefix {
  std::string_view body, head;
};
constexpr TextPrefix kTextPrefixes[] = {{"model.language_model.", ""},
                                        {"language_model.model.", "language_model."},
                                        {"thinker.model.", "thinker."},
                                        {"model.text_model.", ""}};
/// What the parts of such models that see, hear and speak are called.
constexpr std::string_view kOtherModalities[] = {"visual.*",
                                                 "vision_*",
                                                 "audio_*",
                                                 "mm_projector.*",
                                                 "multi_modal_*",
                                                 "model.visual.*",
                                                 "model.vision_*",
                                                 "model.audio_*",
                                                 "model.mm_projector.*",
                                                 "model.multi_modal_*",
                                                 "model.embed_vision.*",
                                                 "model.embed_audio.*",
                                                 "thinker.visual.*",
                                                 "thinker.audio_*",
                                                 "talker.*",
                                                 "code2wav.*",
                                                 "token2wav.*"};

void rename(NameTable& table, const std::string& from, std::string_view to) {
  const auto change = [&](std::string& name) {
    if (name.starts_with(from)) name.replace(0, from.size(), to);
  };
  for (auto& [path, names] : table.names)
    for (NameInFile& name : names) change(name.pattern);
  for (std::string& name : table.inert) change(name);
}

// Checkpoints of a model without its head are saved without the first word of every name ("model."); those of a
// multimodal one have other words there, and parts of no use here.
void accept_other_prefixes(NameTable& table, const checkpoint::TensorSource& source) {
  const std::string embedding = table.find("embedding")->front().pattern;
  const size_t dot = embedding.find('.');
  if (dot == std::string::npos || source.find(embedding)) return;
  const std::string prefix = embedding.substr(0, dot + 1), rest = embedding.substr(dot + 1);
  if (source.find(rest)) return rename(table, prefix, "");
  for (const TextPrefix& text : kTextPrefixes) {
    if (!source.find(std::string(text.body) + rest)) continue;
    rename(table, prefix, text.body);
    for (const char* head : {"head", "head.bias"})
      if (const auto found = table.names.find(head); found != table.names.end())
        for (NameInFile& name : found->second)
          if (!source.find(name.pattern)) name.pattern.insert(0, text.head);
    return;
  }
}

/// The family whose text models a multimodal model_type has, and where; nullptr for all others.
const Family* family_of_multimodal(std::string_view model_type, const Multimodal*& found) {
  for (const Family* family : kFamilies)
    for (const Multimodal& one : family->multimodal)
      if (one.model_type == model_type) return found = &one, family;
  return nullptr;
}

/// `config` itself, or the text model's of a multimodal one.
base::Json text_part(const base::Json& config, const std::string& where) {
  const auto type = config.find("model_type");
  const Multimodal* outer = nullptr;
  const Family* family =
      type != config.end() && type->is_string() ? family_of_multimodal(type->get<std::string>(), outer) : nullptr;
  if (!family) return config;
  const base::Json *inner = &config, *around = &config;
  for (std::string_view path = outer->text; !path.empty();) {
    const std::string key(path.substr(0, path.find('.')));
    path.remove_prefix(std::min(key.size() + 1, path.size()));
    const auto found = inner->find(key);
    if (found == inner->end() || !found->is_object())
      base::fail(ErrorKind::not_found, where, "model_type {} without an object \"{}\", which says its text model",
                 outer->model_type, outer->text);
    around = inner, inner = &*found;
  }
  base::Json text = *inner;
  if (!text.contains("model_type")) text["model_type"] = family->model_type;
  text["tie_word_embeddings"] = around->value("tie_word_embeddings", base::Json(outer->tied));
  for (const char* key : {"quantization_config", "compression_config", "bos_token_id", "eos_token_id", "pad_token_id",
                          "dtype", "torch_dtype"})
    if (const auto found = config.find(key); found != config.end() && !text.contains(key)) text[key] = *found;
  return text;
}

// Generation would never end by a token that the model cannot say.
void warn_of_ids(const base::Json& config, const std::string& where, ModelSpec& spec) {
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    const auto found = config.find(key);
    if (found == config.end()) continue;
    for (const base::Json& id : found->is_array() ? *found : base::Json::array({*found}))
      if (id.is_number_integer() && id.get<int64_t>() >= spec.vocabulary)
        spec.warnings.push_back(fmt::format("{}: {} is {}, outside of the vocabulary of {}", where, key,
                                            id.get<int64_t>(), spec.vocabulary));
  }
}

}  // namespace

std::vector<Shape> all_shapes() {
  std::vector<Shape> shapes;
  for (const Family* family : kFamilies) shapes.insert(shapes.end(), family->shapes.begin(), family->shapes.end());
  return shapes;
}

std::string supported_model_types() {
  return join([](const Family& family) { return std::string(family.model_type); });
}

std::string written_model_types() {
  return join([](const Family& family) { return std::string(family.to_config ? family.model_type : ""); });
}

std::vector<const Family*> families_saying(const ModelSpec& spec) {
  std::vector<const Family*> found;
  for (const Family* family : kFamilies)
    if (family->to_config && family->architecture == spec.family.architecture && (!family->says || family->says(spec)))
      found.push_back(family);
  return found;
}

const Family& own_family() { return kCoterie; }

const Family& published_mixture(const Family& dense, bool shared) {
  return dense.moe_type ? family_of_model_type(dense.moe_type(shared), "moe_type") : own_family();
}

std::string describe_mixtures() {
  std::vector<std::pair<const Family*, std::string>> mixtures;  // and what becomes them
  for (const Family* family : kFamilies) {
    if (!family->moe_type) continue;
    const Family* mixture = &published_mixture(*family, false);
    if (!mixtures.empty() && mixtures.back().first == mixture)
      mixtures.back().second += " and " + std::string(family->model_type);
    else
      mixtures.emplace_back(mixture, family->model_type);
  }
  std::string text;
  for (const auto& [mixture, dense] : mixtures)
    text +=
        fmt::format("{}{} {}{}", text.empty() ? "" : ", ", dense, text.empty() ? "become " : "", mixture->model_type);
  return text + fmt::format("; others {}", own_family().model_type);
}

std::vector<const Family*> mixture_families() {
  std::vector<const Family*> mixtures;
  const auto add = [&](const Family& family) {
    if (std::find(mixtures.begin(), mixtures.end(), &family) == mixtures.end()) mixtures.push_back(&family);
  };
  for (const Family* family : kFamilies)
    for (const bool shared : {false, true})
      if (family->moe_type) add(published_mixture(*family, shared));
  add(own_family());
  return mixtures;
}

base::Json read_text_config(const std::filesystem::path& path) {
  return text_part(base::read_json(path), path.string());
}

const Family& family_of_model_type(std::string_view model_type, std::string_view where) {
  for (const Family* family : kFamilies)
    if (family->model_type == model_type) return *family;
  refuse("model_type", model_type, what_is_missing(model_type, {}), where, supported_model_types());
}

const Family& family_of_architecture(std::string_view architecture, std::string_view where) {
  for (const Family* family : kFamilies)
    if (!architecture.empty() && family->architecture == architecture) return *family;
  refuse("general.architecture", architecture, what_is_missing({}, architecture), where,
         join([](const Family& family) { return std::string(family.architecture); }));
}

ModelSpec read_config(const base::Json& whole, const std::string& where, bool strict) {
  if (!whole.is_object()) base::fail(ErrorKind::bad_input, where, "the config is not a JSON object");
  const base::Json config = text_part(whole, where);
  ConfigReader reader(config, where);
  const Family& family = family_of_model_type(reader.keys.string("model_type"), where);
  // How weights lie in the files is the matter of who opens them, and changes nothing in what the model is.
  if (checkpoint::read_quantization(config, where)) reader.keys.inert({"quantization_config", "compression_config"});
  ModelSpec spec = family.from_config(reader);
  reader.refuse_foreign_keys();
  spec.warnings = std::move(reader.warnings);
  if (config.value("model_type", "") != whole.value("model_type", ""))
    spec.warnings.insert(
        spec.warnings.begin(),
        fmt::format("{}: of this multimodal model the text part is read; images and sound are not", where));
  warn_of_ids(config, where, spec);
  report_unread(reader.keys.unread(), where, strict, spec, &reader.keys);
  check(spec, where);
  return spec;
}

ModelSpec read_gguf(const checkpoint::TensorSource& source, bool strict) {
  const std::string where = source.where();
  const auto found = source.metadata().find("general.architecture");
  const auto* architecture = found == source.metadata().end() ? nullptr : std::get_if<std::string>(&found->second);
  if (!architecture) base::fail(ErrorKind::not_found, where, "general.architecture is missing");
  const Family& family = family_of_architecture(*architecture, where);
  MetadataReader reader(source, *architecture);
  ModelSpec spec = family.from_gguf(reader);
  spec.family = {.model_type = "", .architecture = *architecture};
  reader.refuse_foreign_keys();
  report_unread(reader.unread(), where, strict, spec);
  check(spec, where);
  return spec;
}

std::vector<std::string> router_patterns() {
  std::vector<std::string> patterns;
  const auto add = [&](const NameTable& table) {
    if (const std::vector<NameInFile>* names = table.find("blocks.{layer}.moe.router"))
      for (const NameInFile& name : *names) patterns.push_back(name.pattern);
  };
  add(gguf_names());
  for (const Family* family : kFamilies) add(family->hugging_face_names());
  return patterns;
}

const Family& family_of(const ModelSpec& spec) {
  const auto& [model_type, architecture] = spec.family;
  if (!model_type.empty()) return family_of_model_type(model_type, "family_of");
  for (const Family* family : kFamilies)
    if (family->architecture == architecture && (!family->says || family->says(spec))) return *family;
  return family_of_architecture(architecture, "family_of");
}

std::string config_key_in_gguf(std::string_view architecture) {
  for (const Family* family : kFamilies)
    if (family->as_it_is_in_gguf && family->architecture == architecture) return std::string(architecture) + ".config";
  return "";
}

NameTable gguf_names_of(const Family& family, Direction direction, const checkpoint::TensorSource* source) {
  if (family.as_it_is_in_gguf) return family.hugging_face_names();
  NameTable table = gguf_names();
  if (family.adjust_gguf_names) family.adjust_gguf_names(table, direction, source);
  return table;
}

NameTable names_for(const ModelSpec& spec, const checkpoint::TensorSource& source) {
  const Family* family = &family_of(spec);
  const bool gguf = source.format() == checkpoint::Format::gguf ||
                    (source.format() == checkpoint::Format::memory && source.find("token_embd.weight"));
  if (gguf) return gguf_names_of(*family, Direction::reading, &source);
  NameTable table = family->hugging_face_names();
  if (family->adjust_names) family->adjust_names(table, source);
  if (!family->as_it_is_in_gguf) accept_other_prefixes(table, source);
  if (!family->multimodal.empty())
    table.inert.insert(table.inert.end(), std::begin(kOtherModalities), std::end(kOtherModalities));
  return table;
}

}  // namespace coterie::families
