#pragma once

#include <cstdint>
#include <optional>

#include "models/spec.h"

namespace coterie::models {

/// A longer context at run time: what takes the place of a model's own rotary scaling. What is not given stays as the
/// model has it, or, where the kind of scaling is another, as transformers' defaults are.
struct RopeOptions {
  std::optional<layers::RopeSpec::Scaling> scaling = {};  // else the model's own, or linear where it has none
  std::optional<double> factor = {};                      // >= 1; else context / original_context
  std::optional<int64_t> original_context = {};           // positions before scaling; else the model's
  std::optional<double> base = {};                        // theta
  std::optional<double> low_freq_factor = {}, high_freq_factor = {};  // of llama3: 1, 4
  std::optional<double> beta_fast = {}, beta_slow = {};               // of yarn: 32, 1
  std::optional<double> attention_factor = {};  // of yarn: times 0.1 ln(factor) + 1, as llama.cpp's --yarn-attn-factor
  int64_t context = 0;                          // positions that are wanted; 0 = not said

  /// Whether anything is to be changed: `context` alone changes nothing.
  bool any() const;
};

/// Scales the rotary embedding of every layer, as if the model's config said so (RopeSpec and layers::rope_table have
/// the formulas), and sets spec.context to factor × original_context, or under a higher base alone to what NTK-aware
/// scaling makes of it: original_context × (base / the model's)^((d - 2) / d), d the rotary dimensions (bloc97 2023).
/// Where sliding layers have a rotary embedding of their own, it stays as it is, as in transformers and llama.cpp.
///
/// Throws bad_input, naming the field ("rope.factor"), for values out of range, those of another kind of scaling and a
/// factor that nothing says; for models without rotary positions; unsupported for longrope where the model has none,
/// since its factors are found by search, and, without original_context, for files whose frequencies are scaled
/// already.
void apply(const RopeOptions& options, ModelSpec& spec);

}  // namespace coterie::models
