#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine.h"
#include "tensor/view.h"

namespace coterie::runtime {

/// The whole models that run as one engine behind a gate (families/ensemble/gate.h).
struct EnsembleParts {
  std::vector<std::string> names;    // [N]; none for an engine of one model
  std::vector<int64_t> first_layer;  // [N]: where each model's layers begin among those of the engine

  int64_t count() const { return std::ssize(names); }
  /// Which model a layer of the engine belongs to, and its number there. One model: {0, layer}.
  std::pair<int64_t, int64_t> place(int64_t layer) const;
};
EnsembleParts ensemble_parts(const Engine& engine);

/// Hears, with each step, the weights [rows, N] that the gate gave the models for every row of logits, in the order of
/// the rows, as long as what is returned lives. Null, and nothing is heard, for an engine of one model.
[[nodiscard]] std::shared_ptr<const void> listen_to_gate(Engine& engine,
                                                         std::function<void(tensor::ConstMatrix weights)> on_weights);

}  // namespace coterie::runtime
