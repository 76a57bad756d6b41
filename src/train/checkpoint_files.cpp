#include "train/checkpoint_files.h"

#include "base/atomic_file.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/prediction.h"
#include "families/weights/export.h"
#include "models/predicting_decoder.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::Json;

namespace {

constexpr const char *kModel = "model.safetensors", *kOptimiser = "optimizer.safetensors", *kState = "state.json";

}  // namespace

void write_model_files(const fs::path& folder, Json config, const fs::path& vocabulary, const models::Decoder& decoder,
                       const std::string& name, const families::ReadExpert& elsewhere) {
  config.erase("torch_dtype");
  config["dtype"] = "float32";
  const families::Family& family = families::family_of(decoder.spec());
  base::write_text(folder / "config.json", config.dump(2) + "\n");
  for (const fs::directory_entry& file : fs::directory_iterator(vocabulary))
    base::write_text(folder / file.path().filename(), base::read_text(file.path()));
  const auto* const predicting = dynamic_cast<const models::PredictingDecoder*>(&decoder);
  const models::Decoder& model = predicting ? predicting->model() : decoder;
  std::vector<checkpoint::TensorToWrite> tensors =
      families::tensors_to_write(model, family.hugging_face_names(), elsewhere);
  if (predicting)
    for (checkpoint::TensorToWrite& tensor : families::prediction_tensors_to_write(model.spec(), predicting->head()))
      tensors.push_back(std::move(tensor));
  checkpoint::write_safetensors(folder / kModel, tensors,
                                // Without the format older readers refuse the file.
                                {{"format", "pt"}, {families::kNameKey, name}});
}

fs::path optimiser_file(const fs::path& folder) { return folder / kOptimiser; }

void write_moments(const fs::path& folder, std::span<const checkpoint::TensorToWrite> moments) {
  checkpoint::write_safetensors(optimiser_file(folder), moments);
}

void write_state(const fs::path& folder, int64_t optimiser_steps, const Progress& progress) {
  Json state = {{"step", progress.step},
                {"tokens", progress.tokens},
                {"seconds", progress.seconds},
                {"optimiser_steps", optimiser_steps}};
  if (progress.best)
    state.update(Json{{"best", *progress.best},
                      {"best_step", progress.best_step},
                      {"waited", progress.waited},
                      {"judged_step", progress.judged_step}});
  base::write_text(folder / kState, state.dump(2) + "\n");
}

Progress read_progress(const fs::path& folder, AdamW& optimiser, size_t parameters) {
  const Json json = base::read_json(folder / kState);
  base::JsonReader state(json, (folder / kState).string());
  Progress progress;
  progress.step = state.integer("step");
  progress.tokens = state.integer("tokens");
  progress.seconds = state.number("seconds");
  if (state.has("best")) {
    progress.best = state.number("best");
    progress.best_step = state.integer("best_step"), progress.waited = state.integer("waited");
    progress.judged_step = state.integer("judged_step");
  }
  const auto moments = checkpoint::open_safetensors(folder / kOptimiser);
  optimiser.restore(*moments, state.integer("optimiser_steps"), parameters);
  return progress;
}

}  // namespace coterie::train
