#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/decoder.h"
#include "models/rope_override.h"
#include "models/spec.h"
#include "text/tokenizer.h"

namespace coterie::families {

class Adapter;

struct OpenOptions {
  bool strict = false;                       // unknown config keys are an error, not a warning
  std::optional<int64_t> experts_per_token;  // --experts-per-token
  // --router: what training does, in inference too.
  std::optional<float> router_sample;       // sample:T
  bool router_noise = false;                // noise
  std::optional<float> router_jitter = {};  // jitter:E; 0 for the model's own
  bool router_capacity = false;             // capacity, by router_limit or else the model's own
  std::optional<layers::RouterSpec::Capacity> router_limit = {};
  // --adapter: a folder of low-rank matrices to add to the weights (families/adapter/adapter.h), what they add times
  // the factor.
  std::filesystem::path adapter = {};
  double adapter_factor = 1;
  models::RopeOptions rope = {};  // --rope-scaling and its like

  // The routed experts that are bound, for a rank that owns some of them; null: all (families/weights/binder.h).
  std::function<bool(int64_t layer, int64_t expert, int64_t experts)> owns_expert = {};

  bool changes_routers() const { return router_sample || router_noise || router_jitter || router_capacity; }
};

/// Reads what a model is, without weights: from a folder, a .gguf or a config.json. Well under a second for any size.
models::ModelSpec read_spec(const checkpoint::ModelPath& path, const OpenOptions& options = {});
/// The same from weights that are open already (nullptr for a config alone).
models::ModelSpec read_spec(const checkpoint::ModelPath& path, const checkpoint::TensorSource* source,
                            const OpenOptions& options);

/// Changes every router of the spec as the options say, and its rotary embeddings (rope_override.h). Refuses
/// experts_per_token outside [1, E], a temperature that is not above zero, noise, jitter or capacity that the model
/// says nothing of, and any of them for a model without routers. Warns (spec.warnings) where a model's or the asked
/// rules look at tokens to come or at other sequences.
void apply(const OpenOptions& options, models::ModelSpec& spec);

/// A model ready to run: its files mapped, its tensors found, checked against the spec, and bound. Throws naming
/// the file and tensor when one is missing, surplus or of the wrong shape, and what Adapter::load throws.
struct Model {
  checkpoint::ModelPath path;
  std::unique_ptr<checkpoint::TensorSource> source;
  std::shared_ptr<Adapter> adapter;  // attached to the decoder's weights; null: none
  std::unique_ptr<models::Decoder> decoder;
  std::optional<text::Tokenizer> tokenizer;
  std::string no_tokenizer;  // why there is none, for commands that need one
  std::optional<text::ChatTemplate> chat_template;
  std::string name;  // for people: general.name, or the folder's
  std::vector<std::string> warnings;
};
Model open_model(const std::filesystem::path& path, const OpenOptions& options = {});
/// The same over weights in memory with GGUF's names and metadata (random_model): no files, no chat template.
Model open_model(std::unique_ptr<checkpoint::TensorSource> source, const OpenOptions& options = {});

/// Binds the tensors of `source` to a decoder of `spec` (benchmarks and laws on made-up weights). `source` must
/// outlive it. Warnings are appended where given. `owns_expert` as in OpenOptions.
std::unique_ptr<models::Decoder> bind_decoder(
    const models::ModelSpec& spec, const checkpoint::TensorSource& source, std::vector<std::string>* warnings = nullptr,
    const std::function<bool(int64_t layer, int64_t expert, int64_t experts)>& owns_expert = {});

}  // namespace coterie::families
