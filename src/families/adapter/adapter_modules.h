#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers/tensor_list.h"
#include "models/decoder.h"

namespace coterie::families {

/// What the peft library adapts as one: a projection, or a stack of experts. Where transformers holds several of our
/// weights in one (gate and up; q, k and v of some families), they share A, and each has its rows of B.
struct AdapterModule {
  struct Piece {
    std::string path;   // "blocks.3.moe.experts.gate"
    int64_t first = 0;  // of its outputs among the module's
    int64_t rows = 0;
  };
  /// linear: nn.Linear. parameter: a matrix, or a stack of experts, that is a parameter of its module (peft's
  /// target_parameters). per_expert: a stack whose experts are projections of their own (older transformers).
  enum class Kind { linear, parameter, per_expert };

  std::string path;       // canonical, of what is adapted: "blocks.3.attention.q", "blocks.3.moe.experts.gate_up"
  std::string name;       // in transformers: "model.layers.3.self_attn.q_proj", "model.layers.3.mlp.experts"; for
                          // per_expert with {expert}
  std::string parameter;  // "gate_up_proj"; empty for a linear
  Kind kind = Kind::linear;
  layers::Place place = layers::Place::mixer;
  int64_t stack = 0;  // experts, or 0 for a matrix
  int64_t inputs = 0, outputs = 0;
  std::vector<Piece> pieces;
  // Which of ours each of the file's outputs and inputs is, where they are not our pieces one after the other: two
  // pieces row by row (gpt-oss), or by key head (Qwen3-Next); rotary pairs side by side here and half a head apart
  // there; value heads in turn here and by key head there (GGUF of Qwen3.5).
  std::vector<int64_t> output_order, input_order;

  int64_t matrices() const { return stack > 0 ? stack : 1; }
  /// Whose row, counted as ours, is row r of the file.
  int64_t row(int64_t in_file) const {
    return output_order.empty() ? in_file : output_order[static_cast<size_t>(in_file)];
  }
  /// Whose column, counted as ours, is column c of the file.
  int64_t column(int64_t in_file) const {
    return input_order.empty() ? in_file : input_order[static_cast<size_t>(in_file)];
  }
  std::string group() const;  // the target word for it and its kind: "attention", "experts", …
  std::string word() const;   // and for it alone: "attention.q", "experts.gate_up"
};

/// Everything in the model that an adapter may be attached to, in the order of its tensors. `per_expert`: stacks as
/// projections of their own, where the family has such names, else they are left out.
std::vector<AdapterModule> adapter_modules(const models::Decoder& decoder, bool per_expert = false);

/// The words for these modules, without repeats: groups first, then parts.
std::vector<std::string> adapter_targets(const std::vector<AdapterModule>& modules);

/// Throws bad_input for a word that is neither "all" nor among those that the model knows.
void expect_known(const std::vector<std::string>& words, const std::vector<std::string>& known, std::string_view where);

/// Those that the words name, "all" for every one. Throws bad_input for a word that names none.
std::vector<AdapterModule> chosen_modules(const std::vector<AdapterModule>& modules,
                                          const std::vector<std::string>& words);

}  // namespace coterie::families
