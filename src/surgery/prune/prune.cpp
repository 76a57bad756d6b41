#include "surgery/prune/prune.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/tensor_sink.h"
#include "families/family.h"
#include "surgery/write/folder.h"
#include "surgery/write/roles.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::Json;
using checkpoint::TensorInfo;
using checkpoint::TensorToWrite;

/// The keys of a config.json that say how many experts there are, the one that it has.
void set_experts(Json& config, int64_t experts, const std::string& where) {
  if (config.contains("router") && config["router"].is_object()) {  // Coterie's own
    config["router"]["experts"] = experts;
    return;
  }
  bool found = false;
  if (config.contains("ffn_config") && config["ffn_config"].is_object() &&
      config["ffn_config"].contains("moe_num_experts"))
    config["ffn_config"]["moe_num_experts"] = experts, found = true;
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"})
    if (config.contains(key) && config[key].is_number_integer()) config[key] = experts, found = true;
  if (!found)
    throw base::Error(ErrorKind::unsupported, where, "does not say how many experts there are",
                      "write the number that the reference takes into the config");
}

class Pruner {
 public:
  Pruner(const families::Model& model, const KeptExperts& kept) : model_(model), kept_(kept) {
    const checkpoint::TensorSource& source = *model.source;
    const models::ModelSpec& spec = model.decoder->spec();
    for (const models::BlockSpec& block : spec.blocks)
      if (const auto* attention = std::get_if<layers::AttentionSpec>(&block.mixer); attention && attention->experts)
        base::fail(ErrorKind::unsupported, source.where(),
                   "experts within attention are not pruned, and the config has one number for both kinds");
    for (const auto& [layer, experts] : kept_) {
      // Experts without weights come last among a router's rows, and stay.
      const auto& moe = std::get<layers::MoeSpec>(spec.blocks[static_cast<size_t>(layer)].ffn);
      std::vector<int64_t>& rows = router_rows_[layer] = experts;
      for (int64_t e = moe.experts_with_weights(); e < moe.router.experts; ++e) rows.push_back(e);
    }
    roles_ = roles_in(source, *model.decoder, families::names_for(spec, source));
    for (const auto& [layer, experts] : kept_) most_ = std::max(most_, std::ssize(experts));
    for (const auto& [layer, experts] : kept_) uneven_ |= std::ssize(experts) != most_;
    for (const TensorInfo& info : source.tensors()) add(info);
  }

  std::vector<TensorToWrite> tensors;
  int64_t most() const { return most_; }
  bool uneven() const { return uneven_; }

 private:
  const Role* role_of(const std::string& name) const {
    auto found = roles_.find(name);
    // The exponents of published MXFP4, beside the nibbles that are looked up.
    if (found == roles_.end() && name.ends_with("_scales"))
      found = roles_.find(name.substr(0, name.size() - 7) + "_blocks");
    return found == roles_.end() ? nullptr : &found->second;
  }

  static bool has_row_for_each(const Role& role) {
    return role.place == layers::Place::router && !role.path.ends_with(".hidden") &&
           !role.path.ends_with(".hidden.bias");
  }

  void add(const TensorInfo& info) {
    const Role* role = role_of(info.name);
    const int64_t layer = role ? families::path_pattern(role->path).layer : -1;
    const auto kept = kept_.find(layer);
    const bool of_expert = role && role->place == layers::Place::experts;
    if (kept == kept_.end() || !role || (!of_expert && !has_row_for_each(*role))) {
      tensors.push_back({info.name, info.dtype, info.shape, [bytes = info.bytes](const auto& write) { write(bytes); }});
      return;
    }
    if (role->expert >= 0) {
      const std::vector<int64_t>& experts = kept->second;
      const auto at = std::lower_bound(experts.begin(), experts.end(), role->expert);
      if (at == experts.end() || *at != role->expert) return;
      tensors.push_back({families::expand(role->pattern, layer, at - experts.begin()), info.dtype, info.shape,
                         [bytes = info.bytes](const auto& write) { write(bytes); }});
      return;
    }
    const auto& moe = std::get<layers::MoeSpec>(model_.decoder->spec().blocks[static_cast<size_t>(layer)].ffn);
    const std::vector<int64_t>& experts = of_expert ? kept->second : router_rows_.at(layer);
    const int64_t count = of_expert ? moe.experts_with_weights() : moe.router.experts;
    const auto all = static_cast<size_t>(count);
    // The experts' dimension is the first that is not one, alone or with the rows of each in it.
    tensor::Shape shape = info.shape;
    size_t by_expert = 0;
    while (by_expert + 1 < shape.size() && shape[by_expert] == 1) ++by_expert;
    base::require(shape[by_expert] % count == 0 && info.bytes.size() % all == 0, "prune", "{} has {} for {} experts",
                  info.name, tensor::to_string(info.shape), all);
    shape[by_expert] = shape[by_expert] / count * std::ssize(experts);
    tensors.push_back({info.name, info.dtype, shape,
                       [bytes = info.bytes, each = info.bytes.size() / all, &experts](const auto& write) {
                         for (const int64_t e : experts) write(bytes.subspan(static_cast<size_t>(e) * each, each));
                       }});
  }

  const families::Model& model_;
  const KeptExperts& kept_;
  KeptExperts router_rows_;  // of routers, by layer
  Roles roles_;
  int64_t most_ = 0;
  bool uneven_ = false;
};

int64_t values_of(std::span<const TensorToWrite> tensors) {
  int64_t values = 0;
  for (const TensorToWrite& tensor : tensors) values += tensor::element_count(tensor.shape);
  return values;
}

checkpoint::Metadata metadata_with(const families::Model& model, int64_t experts) {
  checkpoint::Metadata metadata = model.source->metadata();
  for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.alignment"}) metadata.erase(key);
  const std::string config_key = families::config_key_in_gguf(model.decoder->spec().family.architecture);
  if (const auto own = metadata.find(config_key); own != metadata.end()) {
    Json config = base::parse_json(std::get<std::string>(own->second), config_key);
    set_experts(config, experts, config_key);
    own->second = config.dump(2);
    return metadata;
  }
  metadata[model.decoder->spec().family.architecture + ".expert_count"] = static_cast<uint64_t>(experts);
  return metadata;
}

}  // namespace

void check_pruned_form(const families::Model& model, const std::filesystem::path& out, bool uneven) {
  refuse_quantised(*model.source);
  const bool gguf = model.source->format() == checkpoint::Format::gguf;
  if (gguf != (out.extension() == ".gguf"))
    throw base::Error(ErrorKind::bad_input, out.string(),
                      gguf ? "is not a .gguf file, and the model is one" : "is a .gguf file, and the model is a folder",
                      "prune writes the form it reads; coterie convert changes a folder into a .gguf file and back");
  if (!uneven) return;
  if (!gguf)
    throw base::Error(ErrorKind::unsupported, out.string(), "a config.json has one number of experts for all layers",
                      "in GGUF each layer may have its own: convert first");
  if (const std::string config = families::config_key_in_gguf(model.decoder->spec().family.architecture);
      !config.empty())
    base::fail(ErrorKind::unsupported, out.string(), "{} has one number of experts for all layers", config);
}

Pruned prune(const families::Model& model, const KeptExperts& kept, const std::filesystem::path& out,
             const std::function<void(std::string_view tensor, int64_t done, int64_t all)>& on_progress) {
  const bool gguf = model.source->format() == checkpoint::Format::gguf;
  Pruner pruner(model, kept);
  check_pruned_form(model, out, pruner.uneven());
  Pruned result;
  std::vector<TensorToWrite>& tensors = pruner.tensors;
  result.tensors = std::ssize(tensors);
  result.parameters_after = values_of(tensors);
  for (const TensorInfo& info : model.source->tensors()) result.parameters_before += tensor::element_count(info.shape);
  int64_t done = 0;
  for (TensorToWrite& tensor : tensors)
    tensor.produce = [&, name = tensor.name, values = tensor::element_count(tensor.shape),
                      produce = std::move(tensor.produce)](const auto& write) {
      if (on_progress) on_progress(name, done, result.parameters_after);
      produce(write);
      done += values;
    };
  if (gguf) {
    refuse_same_file(model.path.path, out);
    if (pruner.uneven())
      result.notes.push_back(
          "layers have different numbers of experts, which the tensors' shapes say: other engines may refuse the file");
    checkpoint::write_gguf(out, tensors, metadata_with(model, pruner.most()));
    std::error_code ignored;
    result.file_bytes = static_cast<int64_t>(std::filesystem::file_size(out, ignored));
    return result;
  }
  Json config = families::read_text_config(model.path.config);
  set_experts(config, pruner.most(), model.path.config.string());
  NewFolder folder(out);
  folder.write("config.json", config.dump(2) + "\n");
  for (const auto& [name, text] : text_files(model.path.config.parent_path())) folder.write(name, text);
  folder.fill([&](const auto& now) {
    const std::filesystem::path weights = now / "model.safetensors";
    checkpoint::write_safetensors(weights, tensors, {{"format", "pt"}});
    result.file_bytes = static_cast<int64_t>(std::filesystem::file_size(weights));
  });
  folder.commit();
  return result;
}

}  // namespace coterie::surgery
