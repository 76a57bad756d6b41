#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/spec.h"
#include "surgery/write/roles.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

/// What a mixture of formats is decided by, beside a matrix's own place.
struct PresetFacts {
  explicit PresetFacts(const models::ModelSpec& spec, bool with_importance);

  int64_t layers = 0;
  int64_t experts = 0;                  // of a layer; 0: a dense model
  int64_t queries_per_key = 1;          // heads that share one key-value head
  std::vector<int64_t> attention_rank;  // of each layer: how many layers with attention come before it
  int64_t attention_layers = 0;
  bool tied = false, importance = false;
};

/// A mixture of formats under the name that llama.cpp gave it ("q4_k_m"), which people choose files by: a format for
/// most matrices and better ones where rounding costs most. The rules are those of llama-quantize, so that a file of
/// the same name holds the same formats. What they are is told by `rule`.
struct Preset {
  std::string_view name;
  tensor::DType base;
  int64_t file_type;      // GGUF's general.file_type
  std::string_view rule;  // beside the base, in words

  /// The format of a matrix, before rows that do not divide into blocks get another one (families::fitting_format).
  /// Vectors and routers are not asked about: they stay in f32.
  tensor::DType format(const Role& role, const PresetFacts& facts) const;
};

/// In any case of letters; nullptr for a name that none has.
const Preset* preset_by_name(std::string_view name);
/// All of them, from few bits to many.
const std::vector<Preset>& presets();

}  // namespace coterie::surgery
