#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/spec.h"

namespace coterie::families {

using models::BlockSpec;
using models::ModelSpec;

/// What an architecture's experts are where the metadata is silent, as llama.cpp has it in code.
struct ExpertDefaults {
  int64_t hidden;
  int64_t shared_hidden = 0;
  bool shared_gate = false;
  bool renormalise = false;
  layers::RouterSpec::Score score = layers::RouterSpec::Score::softmax;  // expert_gating_func wins
  bool selection_bias = false;
  bool groups = false;  // whether expert_group_count counts
};

/// Reads GGUF metadata for the families: keys below "{architecture}.", remembering which were read.
class MetadataReader {
 public:
  MetadataReader(const checkpoint::TensorSource& source, std::string architecture)
      : source_(source), prefix_(std::move(architecture) + ".") {}

  bool has(std::string_view key) const;
  int64_t integer(std::string_view key, std::optional<int64_t> otherwise = {});
  double number(std::string_view key, std::optional<double> otherwise = {});
  bool boolean(std::string_view key, bool otherwise);
  std::string string(std::string_view key, const std::string& otherwise);
  /// A number for each layer: an array, or one for all.
  std::vector<int64_t> per_layer(std::string_view key, size_t layers, std::optional<int64_t> otherwise = {});

  /// True or false for each layer, from an array.
  std::vector<bool> flags(std::string_view key, const std::vector<bool>& otherwise);
  /// A number of any kind for each layer, from an array or one for all; zeros where the file is silent. An array may go
  /// on for layers that are left out later.
  std::vector<double> numbers(std::string_view key, size_t layers);
  /// Keys that may be there and change nothing.
  void inert(std::initializer_list<std::string_view> keys);

  /// Vocabulary, width, context and final norm; one block for each layer, with that norm before its mixer.
  ModelSpec stack();
  /// A decoder with RMSNorm, grouped-query attention, RoPE in `style` and a SwiGLU FFN; biases where the file has
  /// tensors for them, tied embeddings where it has no output.weight. Layers of hybrids that have no attention come
  /// with 0 key-value heads.
  ModelSpec decoder(ops::RopeTable::Style style);
  /// attention.sliding_window, for every layer.
  void set_window(ModelSpec& spec);
  /// A window for the layers that slide: those that attention.sliding_window_pattern says, by an array of true and
  /// false or by the number of layers of which the last does not; `pattern` layers where the file is silent. A window
  /// of 0: none slides.
  void set_windows(ModelSpec& spec, int64_t window, int64_t pattern);
  /// Experts in every layer that has a router.
  void set_experts(ModelSpec& spec, const ExpertDefaults& defaults);

  /// Rows of a matrix; 0 when the file has none of that name.
  int64_t rows_of(const std::string& name) const;
  bool has_tensor(const std::string& name) const { return source_.find(name) != nullptr; }

  /// Refuses, by name, a key below the architecture that some architecture honours and this one does not.
  void refuse_foreign_keys();
  /// Keys below the architecture that nothing has read.
  std::vector<std::string> unread() const;

 private:
  const checkpoint::MetaValue* find(std::string_view key);
  std::string where(std::string_view key) const { return source_.where() + ": " + prefix_ + std::string(key); }
  layers::RopeSpec rope(ops::RopeTable::Style style, int64_t head_dim, int64_t context);
  void read_longrope(layers::RopeSpec& rope);
  /// What frequencies are divided by, a tensor [dims / 2]; empty when the file has none of that name.
  std::vector<float> divisors(const std::string& name, int64_t dims) const;

  const checkpoint::TensorSource& source_;
  std::string prefix_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace coterie::families
