#include "runtime/speculation/speculation.h"

#include <utility>

#include "base/error.h"
#include "families/ensemble/same_tokenizer.h"
#include "families/prediction.h"
#include "runtime/speculation/head_drafter.h"
#include "runtime/speculation/lookup_drafter.h"
#include "runtime/speculation/model_drafter.h"

namespace coterie::runtime {

SpeculationOptions read_speculation(std::string_view text) {
  constexpr std::string_view kModel = "draft:";
  SpeculationOptions options;
  if (text == "ngram") return options;
  options.kind = SpeculationOptions::Kind::heads;
  if (text == "mtp") return options;
  options.kind = SpeculationOptions::Kind::model;
  if (text.starts_with(kModel)) options.model = text.substr(kModel.size());
  if (options.model.empty())
    throw base::Error(
        base::ErrorKind::bad_input, "speculate", fmt::format("is \"{}\", expected ngram, mtp or draft:MODEL", text),
        "ngram drafts what followed the last tokens earlier in the text, mtp what the model's own head for "
        "multi-token prediction says, draft:MODEL what a smaller model with the same vocabulary says");
  return options;
}

Speculation::Speculation(const SpeculationOptions& options, const Engine& target, const EngineOptions& drafts)
    : options_(options), vocabulary_(target.spec().vocabulary) {
  require_speculable(*target.model().decoder);
  if (options_.kind == SpeculationOptions::Kind::lookup) return;
  const bool heads = options_.kind == SpeculationOptions::Kind::heads;
  families::Model model = heads ? families::open_prediction_head(target.model()) : families::open_model(options_.model);
  if (!heads) families::require_same_tokenizer(target.model(), model);
  EngineOptions engine = drafts;
  engine.context = 0;
  engine.drafted = 0;
  engine.cache_bytes = 0;
  engine.ranks = nullptr;          // of several ranks the first drafts alone
  engine.part_of_a_model = heads;  // of the file a head's weights alone are its own
  // Where the target leaves no memory to move anything into, nothing is moved.
  if (target.bytes().store()) engine.memory = 0, engine.move_weights = false;
  drafts_.emplace(std::move(model), engine);
}

std::unique_ptr<Speculator> Speculation::speculator() {
  std::unique_ptr<Drafter> drafter;
  if (options_.kind == SpeculationOptions::Kind::heads)
    drafter = std::make_unique<HeadDrafter>(*drafts_);
  else if (drafts_)
    drafter = std::make_unique<ModelDrafter>(*drafts_, vocabulary_);
  else
    drafter = std::make_unique<LookupDrafter>();
  auto speculator = std::make_unique<Speculator>(std::move(drafter), options_.most, costs_);
  if (options_.always) speculator->always(options_.most);
  return speculator;
}

}  // namespace coterie::runtime
