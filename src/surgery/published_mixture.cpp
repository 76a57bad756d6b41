#include "surgery/published_mixture.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "families/config/config_writer.h"
#include "families/config/router_keys.h"
#include "families/family.h"
#include "surgery/same_model.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::Json;
using families::Family;
using layers::AttentionSpec;
using layers::MoeSpec;
using models::ModelSpec;

/// Everything of a router that its family's config must say, the equivalent forms of softmax aside.
Json router_words(const layers::RouterSpec& router) {
  Json json = families::write_router(router);
  if (router.score == layers::RouterSpec::Score::softmax) {
    json["renormalise"] = router.renormalise || router.order == layers::RouterSpec::Order::select_then_score;
    json.erase("order");
  }
  return json;
}

void require_same_router(const layers::RouterSpec& wanted, const layers::RouterSpec& read,
                         const std::string& model_type, const std::string& hint) {
  const Json a = router_words(wanted), b = router_words(read);
  std::set<std::string> keys;
  for (const Json* json : {&a, &b})
    for (const auto& [key, value] : json->items()) keys.insert(key);
  for (const std::string& key : keys)
    if (a.value(key, Json()) != b.value(key, Json()))
      throw base::Error(ErrorKind::unsupported, "upcycle.router",
                        fmt::format("the config of {} cannot express {} {}: its routers have {}", model_type, key,
                                    a.value(key, Json()).dump(), b.value(key, Json()).dump()),
                        hint);
}

}  // namespace

const Family& mixture_family(const std::string& model_type) {
  std::string known;
  for (const Family* family : families::mixture_families()) {
    if (family->model_type == model_type) return *family;
    known += (known.empty() ? "" : ", ") + std::string(family->model_type);
  }
  throw base::Error(ErrorKind::unsupported, model_type, "is not a model_type that mixtures can be written as here",
                    "there are " + known);
}

std::string own_type_note(const Family& dense, const Family& written) {
  if (&written != &families::own_family() || &dense == &written) return "";
  return fmt::format("{} has no published mixture: it is written as {}, the engine's own model_type", dense.model_type,
                     written.model_type);
}

std::string dtype_word(tensor::DType dtype) {
  if (dtype == tensor::DType::f32) return "float32";
  if (dtype == tensor::DType::f16) return "float16";
  if (dtype == tensor::DType::bf16) return "bfloat16";
  base::fail(ErrorKind::unsupported, "dtype", "weights of {} are not written: expected f32, f16 or bf16",
             tensor::name(dtype));
}

PublishedMixture make_published(const ModelSpec& parent, const std::filesystem::path& config_path, const MoeSpec& moe,
                                const std::vector<bool>& sparse, const Family& family) {
  const std::string where = config_path.string(), model_type(family.model_type);
  mixture_family(model_type);  // or refuse
  PublishedMixture published{parent, {}};
  published.spec.family = {.model_type = model_type, .architecture = ""};
  for (size_t i = 0; i < sparse.size(); ++i) {
    const layers::DenseFfnSpec* ffn = std::get_if<layers::DenseFfnSpec>(&parent.blocks[i].ffn);
    if (sparse[i] && !ffn) base::fail(ErrorKind::unsupported, where, "layer {} has no dense FFN to make experts of", i);
    if (sparse[i]) published.spec.blocks[i].ffn = moe;
  }
  const Json config = families::read_text_config(config_path);
  const families::ConfigParent dense{config, parent};
  published.config = families::write_config(family, published.spec, &dense);
  DifferenceWords words;
  words.cannot = fmt::format("the config of {} cannot express the", model_type);
  words.a = "in the parent", words.b = fmt::format("by {}", model_type);
  const Family& own = families::own_family();
  words.hint = &family == &own ? ""
                               : fmt::format("as {0}, the engine's own model_type, more can be said (`model_type` {0})",
                                             own.model_type);
  ModelSpec read;
  try {
    read = families::read_config(published.config, model_type, true);
  } catch (const base::Error& error) {
    throw base::Error(ErrorKind::unsupported, where,
                      fmt::format("cannot be expressed as {}: {}", model_type, error.message()), words.hint);
  }
  require_same(published.spec, read, where, words);
  // What a conversion would put into the tensors is not compared there; here tensors are copied.
  const auto offset = [](const ModelSpec& spec) {
    const models::BlockSpec& block = spec.blocks.front();
    const auto* attention = std::get_if<AttentionSpec>(&block.mixer);
    return std::pair(spec.final_norm.weight_offset, attention ? attention->qk_norm_offset : 0.0f);
  };
  if (offset(parent) != offset(read))
    base::fail(ErrorKind::unsupported, where, "{} norms, which multiply by 1 + w", words.cannot);
  for (size_t i = 0; i < sparse.size(); ++i)
    if (sparse[i])
      require_same_router(moe.router, std::get<MoeSpec>(read.blocks[i].ffn).router, model_type, words.hint);
  return published;
}

}  // namespace coterie::surgery
