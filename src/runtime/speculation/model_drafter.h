#pragma once

#include "runtime/engine.h"
#include "runtime/speculation/drafter.h"
#include "runtime/token_cache.h"

namespace coterie::runtime {

/// A smaller model with the same vocabulary drafts. It draws from its own distribution by the text's rules and random
/// numbers, so that it draws what the model will draw wherever the two think alike, at any temperature.
class ModelDrafter final : public Drafter {
 public:
  /// For a model of `vocabulary` tokens, those of `engine`'s first; tokens that only one of the two has are never
  /// drafted. `engine` must outlive it; drafts end where its context does.
  ModelDrafter(Engine& engine, int64_t vocabulary)
      : engine_(engine), read_{engine.make_cache(), {}}, logits_(static_cast<size_t>(vocabulary)) {}

  Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler& sampler) override;
  bool is_free() const override { return false; }

 private:
  Engine& engine_;
  TokenCache read_;
  std::vector<float> logits_;  // [V] of the model that is drafted for
};

}  // namespace coterie::runtime
