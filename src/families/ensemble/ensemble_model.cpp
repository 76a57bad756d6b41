#include "families/ensemble/ensemble_model.h"

#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "checkpoint/ensemble_file.h"
#include "families/ensemble/same_tokenizer.h"

namespace coterie::families {

namespace {

/// The files of all models; a tensor's name begins with the number of its model.
class JointSource final : public checkpoint::TensorSource {
 public:
  explicit JointSource(std::span<const Model> models) {
    for (size_t i = 0; i < models.size(); ++i) {
      const checkpoint::TensorSource& source = *models[i].source;
      sources_.push_back(&source);
      bytes_ += source.file_bytes();
      where_ += (i ? ", " : "") + source.where();
      for (checkpoint::TensorInfo info : source.tensors()) {
        const std::string file = source.file_of(info);
        info.name = std::to_string(i) + "." + info.name;
        files_[info.name] = {tensors_.size(), file};
        tensors_.push_back(std::move(info));
      }
    }
  }
  checkpoint::Format format() const override { return checkpoint::Format::safetensors; }
  std::string where() const override { return where_; }
  std::span<const checkpoint::TensorInfo> tensors() const override { return tensors_; }
  const checkpoint::TensorInfo* find(std::string_view name) const override {
    const auto found = files_.find(name);
    return found == files_.end() ? nullptr : &tensors_[found->second.first];
  }
  const checkpoint::Metadata& metadata() const override { return metadata_; }
  int64_t file_bytes() const override { return bytes_; }
  std::string file_of(const checkpoint::TensorInfo& tensor) const override { return files_.at(tensor.name).second; }
  std::optional<checkpoint::FilePlace> place_of(std::span<const std::byte> bytes) const override {
    for (const checkpoint::TensorSource* source : sources_)
      if (auto place = source->place_of(bytes)) return place;
    return {};
  }

 private:
  std::vector<const checkpoint::TensorSource*> sources_;
  std::vector<checkpoint::TensorInfo> tensors_;
  std::map<std::string, std::pair<size_t, std::string>, std::less<>> files_;
  checkpoint::Metadata metadata_;
  std::string where_;
  int64_t bytes_ = 0;
};

}  // namespace

std::vector<std::string> names_of(const Gate& gate, std::span<const Model> models) {
  std::vector<std::string> names, paths;
  for (size_t i = 0; i < models.size(); ++i) {
    names.push_back(models[i].name);
    paths.push_back(gate.models[i].generic_string());
  }
  return std::set<std::string>(names.begin(), names.end()).size() == names.size() ? names : paths;
}

const text::ChatTemplate* template_of(const Model& answers, std::span<const Model* const> all) {
  if (answers.chat_template) return &*answers.chat_template;
  for (const Model* model : all)
    if (model->chat_template) return &*model->chat_template;
  return nullptr;
}

std::vector<Model> open_models(const Gate& gate, const std::filesystem::path& folder, const OpenOptions& options) {
  std::vector<Model> models;
  for (const std::filesystem::path& path : gate.models) {
    const std::filesystem::path place = (folder / path).lexically_normal();
    std::error_code absent;
    if (!std::filesystem::exists(place, absent))
      throw base::Error(base::ErrorKind::not_found, (folder / checkpoint::kEnsembleFile).string(),
                        fmt::format("names the model {}, which is not at {}", path.generic_string(), place.string()),
                        "put the model back there, or write where it is now under models in that file");
    models.push_back(open_model(place, options));
    if (models.size() > 1) require_same_tokenizer(models.front(), models.back());
  }
  return models;
}

EnsembleModel open_ensemble(const Gate& gate, const std::filesystem::path& folder, const OpenOptions& options) {
  std::vector<Model> models = open_models(gate, folder, options);
  EnsembleModel result;
  Model& whole = result.model;
  whole.path = {checkpoint::ModelPath::Kind::safetensors_folder, folder, {}};
  whole.name = gate_name(folder);
  whole.source = std::make_unique<JointSource>(models);
  whole.tokenizer = models.front().tokenizer;
  whole.no_tokenizer = models.front().no_tokenizer;
  std::vector<const Model*> all;
  for (const Model& model : models) {
    all.push_back(&model);
    whole.warnings.insert(whole.warnings.end(), model.warnings.begin(), model.warnings.end());
  }
  if (const text::ChatTemplate* of = template_of(models.front(), all)) whole.chat_template = *of;
  auto decoder = std::make_unique<EnsembleDecoder>(std::move(models), gate);
  result.decoder = decoder.get();
  whole.decoder = std::move(decoder);
  return result;
}

}  // namespace coterie::families
