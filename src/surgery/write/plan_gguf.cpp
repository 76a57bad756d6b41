#include <fmt/format.h>

#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/memory_source.h"
#include "families/config/config_writer.h"
#include "families/family.h"
#include "families/gguf/gguf_metadata.h"
#include "families/gguf/gguf_vocabulary.h"
#include "families/recommended_sampling.h"
#include "families/weights/export.h"
#include "surgery/same_model.h"
#include "surgery/write/file_plan.h"
#include "text/gguf_export.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using checkpoint::TensorInfo;
using checkpoint::TensorToWrite;
using families::NameTable;
using layers::Place;
using models::ModelSpec;
using tensor::DType;

/// From a folder.
class Maker {
 public:
  Maker(const families::Model& model, bool tokenizer)
      : model_(model),
        spec_(model.decoder->spec()),
        architecture_(families::gguf_architecture(spec_)),
        config_key_(families::config_key_in_gguf(architecture_)) {
    std::map<std::string, bool, std::less<>> minus_exp;
    const NameTable names = gguf_names_to_write(architecture_, &minus_exp);
    plan.roles = roles_to_write(*model.decoder, names);
    plan.tensors = families::tensors_to_write(*model.decoder, names);
    add_rope_tensors();
    describe(tokenizer);
    for (TensorToWrite& tensor : plan.tensors) tensor.shape = file_shape(tensor);
    const ModelSpec read = read_back();
    require_same(spec_, read, model.path.config.string());
    for (const TensorToWrite& tensor : plan.tensors) {
      const Role& role = plan.roles.at(tensor.name);
      Change change = change_between(spec_, read, role);
      if (const auto found = minus_exp.find(families::path_pattern(role.path).pattern); found != minus_exp.end())
        change.minus_exp = true, change.negate = found->second;
      if (!change.none()) plan.changes[tensor.name] = change;
    }
  }

  FilePlan plan;

 private:
  // The values of scalings that GGUF keeps as what each frequency is divided by.
  void add_rope_tensors() {
    if (!config_key_.empty()) return;
    for (const models::BlockSpec& block : spec_.blocks) {
      const layers::RopeSpec* rope = models::rope_of(spec_, block);
      if (!rope) continue;
      using Scaling = layers::RopeSpec::Scaling;
      if (rope->turning_dims == 0 && rope->scaling != Scaling::llama3 && rope->scaling != Scaling::longrope) continue;
      if (rope->turning_dims > 0) add_floats("rope_freqs.weight", families::still_divisors(*rope));
      if (rope->scaling == Scaling::llama3) add_floats("rope_freqs.weight", families::llama3_divisors(*rope));
      if (rope->scaling == Scaling::longrope) {
        add_floats("rope_factors_short.weight", rope->short_factors);
        add_floats("rope_factors_long.weight", rope->long_factors);
      }
      return;
    }
  }

  void add_floats(const std::string& name, std::vector<float> values) {
    const std::vector<float>& kept = plan.made[name] = std::move(values);
    plan.tensors.push_back(
        {name, DType::f32, {std::ssize(kept)}, [bytes = std::as_bytes(std::span(kept))](const auto& write) {
           write(bytes);
         }});
    plan.roles[name] = {name, Place::mixer, true, false};
  }

  void describe(bool tokenizer) {
    checkpoint::Metadata& metadata = plan.metadata;
    if (!config_key_.empty()) {
      metadata["general.architecture"] = architecture_;
      metadata["general.name"] = model_.name;
      metadata["general.quantization_version"] = uint64_t{2};
      metadata[config_key_] = base::read_text(model_.path.config);
    } else {
      metadata = families::gguf_metadata(spec_, model_.name);
    }
    families::add_sampling(families::recommended_sampling(model_), metadata);
    metadata["tokenizer.ggml.model"] = std::string("no_vocab");
    if (!tokenizer) return;
    if (!model_.tokenizer) {
      plan.notes.push_back("no tokenizer is written: " + model_.no_tokenizer);
      return;
    }
    const std::filesystem::path file = model_.path.config.parent_path() / "tokenizer.json";
    const text::GgufExport exported = text::to_gguf(*model_.tokenizer, base::read_json(file), spec_.vocabulary);
    if (exported.vocabulary)
      families::add_vocabulary(*exported.vocabulary, metadata);
    else
      families::add_vocabulary(whole_tokenizer(file, exported.why_not), metadata);
    if (model_.chat_template) metadata["tokenizer.chat_template"] = model_.chat_template->source();
  }

  text::WholeTokenizer whole_tokenizer(const std::filesystem::path& file, const std::string& why) {
    text::WholeTokenizer whole{base::read_text(file), model_.tokenizer->bos(), {}, {}};
    const std::vector<text::TokenId>& ends = model_.tokenizer->end_tokens();
    if (!ends.empty()) whole.eos = ends[0];
    if (ends.size() > 1) whole.eot = ends[1];
    const text::Tokenizer read = text::tokenizer_of(whole, file.string());
    for (const std::string_view text : text::telling_texts()) try {
        if (read.encode(text) == model_.tokenizer->encode(text)) continue;
        throw base::Error(ErrorKind::unsupported, file.string(),
                          "the files beside it change its tokens, which a GGUF cannot hold",
                          "leave the tokenizer out (`convert.tokenizer`)");
      } catch (const base::Error& error) {
        // Characters that a vocabulary of characters lacks.
        if (error.kind() == ErrorKind::unsupported) throw;
      }
    plan.notes.push_back("the tokenizer is embedded as tokenizer.json, which other engines may not read: " + why);
    return whole;
  }

  // What a reader of the file will find, before a byte of it is written.
  ModelSpec read_back() const {
    std::vector<TensorInfo> infos;
    for (const TensorToWrite& tensor : plan.tensors) {
      const auto found = plan.made.find(tensor.name);
      infos.push_back(
          {tensor.name, tensor.dtype, tensor.shape,
           found == plan.made.end() ? std::span<const std::byte>() : std::as_bytes(std::span(found->second))});
    }
    const checkpoint::MemorySource<int> read(0, std::move(infos), plan.metadata, checkpoint::Format::gguf,
                                             "what would be written");
    return families::read_gguf(read, true);
  }

  // A projection to one output is a vector in GGUF.
  tensor::Shape file_shape(const TensorToWrite& tensor) const {
    return plan.roles.at(tensor.name).one_row && tensor.shape.size() == 2 ? tensor::Shape{tensor.shape.back()}
                                                                          : tensor.shape;
  }

  const families::Model& model_;
  const ModelSpec& spec_;
  std::string architecture_, config_key_;
};

/// A GGUF as it is, under its own names.
FilePlan copy(const families::Model& model, bool tokenizer) {
  FilePlan plan;
  const ModelSpec& spec = model.decoder->spec();
  plan.tensors = families::tensors_to_write(*model.source);
  plan.roles = roles_in(*model.source, *model.decoder, families::names_for(spec, *model.source));
  plan.metadata = model.source->metadata();
  for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.alignment"})
    plan.metadata.erase(key);
  if (!tokenizer) std::erase_if(plan.metadata, [](const auto& entry) { return entry.first.starts_with("tokenizer."); });
  if (!tokenizer) plan.metadata["tokenizer.ggml.model"] = std::string("no_vocab");
  const NameTable names = gguf_names_to_write(spec.family.architecture);
  for (const auto& [name, role] : plan.roles) {
    const auto [pattern, layer, item] = families::path_pattern(role.path);
    if (const auto* known = names.find(pattern))
      plan.importance_names[name] = families::expand(known->front().pattern, layer, -1, item);
  }
  return plan;
}

}  // namespace

NameTable gguf_names_to_write(const std::string& architecture, std::map<std::string, bool, std::less<>>* minus_exp) {
  NameTable table =
      families::gguf_names_of(families::family_of_architecture(architecture, "GGUF"), families::Direction::writing);
  if (minus_exp)  // what binding would undo is done by value
    for (auto& [path, names] : table.names)
      for (families::NameInFile& name : names)
        if (std::exchange(name.minus_exp, false)) minus_exp->emplace(path, std::exchange(name.negated, false));
  return table;
}

namespace {

/// For linear attention whose value heads lie in another order in the file: by key head, or in turn for each.
void reorder_heads(const layers::DeltaRuleSpec& before, const layers::DeltaRuleSpec& after, std::string_view part,
                   Change& change) {
  const int64_t keys = before.key_heads, each = before.value_heads / keys;
  if (before.by_turn == after.by_turn || keys == 1 || each == 1) return;
  const auto swap = [&](int64_t unit, int64_t first) {
    change.outer = before.by_turn ? each : keys, change.inner = before.by_turn ? keys : each;
    change.unit = unit, change.first = first;
  };
  if (part == "qkv" || part == "conv") swap(before.value_dim, 2 * before.key_width());
  if (part == "gate") swap(before.value_dim, 0);
  if (part == "beta" || part == "a_log") swap(1, 0);
  if (part == "decay" || part == "decay.bias") swap(before.decay_width() / before.value_heads, 0);
  if (part == "out") swap(before.value_dim, 0), change.columns = true;
}

}  // namespace

Change change_between(const ModelSpec& ours, const ModelSpec& theirs, const Role& role) {
  Change change;
  const families::PathPattern path = families::path_pattern(role.path);
  constexpr std::string_view kDelta = "blocks.{layer}.delta.";
  if (path.pattern.starts_with(kDelta)) {
    const auto layer = static_cast<size_t>(path.layer);
    reorder_heads(std::get<layers::DeltaRuleSpec>(ours.blocks[layer].mixer),
                  std::get<layers::DeltaRuleSpec>(theirs.blocks[layer].mixer),
                  std::string_view(path.pattern).substr(kDelta.size()), change);
    return change;  // its norm has no offset in any form
  }
  if (role.place == Place::norms && !role.path.ends_with(".bias"))
    change.add = ours.final_norm.weight_offset - theirs.final_norm.weight_offset;
  const bool q = path.pattern.find(".attention.q") != std::string::npos;
  const bool k = path.pattern.find(".attention.k") != std::string::npos;
  if ((!q && !k) || path.pattern.ends_with("_norm")) return change;
  const auto layer = static_cast<size_t>(path.layer);
  const layers::AttentionSpec* before = models::attention_of(ours, ours.blocks[layer]);
  const layers::AttentionSpec* after = models::attention_of(theirs, theirs.blocks[layer]);
  if (!before || !after) return change;
  if (!before->rope || before->rope->style == after->rope->style) return change;
  change.head = before->head_dim, change.permuted = before->rope->dims;
  change.back = before->rope->style == ops::RopeTable::Style::interleaved;
  return change;
}

FilePlan plan_gguf(const families::Model& model, bool tokenizer) {
  if (model.source->format() == checkpoint::Format::gguf) return copy(model, tokenizer);
  return Maker(model, tokenizer).plan;
}

}  // namespace coterie::surgery
