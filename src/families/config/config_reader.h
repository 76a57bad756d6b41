#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/json.h"
#include "models/spec.h"

namespace coterie::families {

using models::BlockSpec;
using models::ModelSpec;

/// What the config class of a family assumes where config.json is silent: transformers' configuration_*.py.
struct ConfigDefaults {
  int64_t vocabulary, width, layers, heads;
  // Absent: as many as `heads`. A null in the file always means that.
  std::optional<int64_t> kv_heads = {};
  // Absent: width / heads.
  std::optional<int64_t> head_dim = {};
  int64_t hidden;  // of the dense FFN
  int64_t context;
  double eps = 1e-6;
  double theta = 10000;
  bool tied = false;  // embeddings
  // partial_rotary_factor where the file is silent; without, the family rotates whole heads and refuses any other.
  std::optional<double> partial_rotary = {};
  // original_max_position_embeddings of families whose class has the key: it wins over the one beside the scaling.
  std::optional<int64_t> original_context = {};
  bool magnitudes = false;  // longrope says short_mscale and long_mscale (phimoe)
  std::string_view context_key = "max_position_embeddings", eps_key = "rms_norm_eps";
  bool rope_by_layer = false;  // the family reads the rotary embedding itself
  // mrope_section and mrope_interleaved: of which positions of an image each frequency is; those of text are all equal.
  bool image_positions = false;
};

/// What concerns the rotary embedding of it.
struct RopeDefaults {
  double theta = 10000;
  std::optional<double> partial_rotary = {};
  std::optional<int64_t> original_context = {};
  bool magnitudes = false;
  bool image_positions = false;
};

/// Reads config.json for the families: the parts that most of them share, and access to single keys.
class ConfigReader {
 public:
  ConfigReader(const base::Json& json, const std::string& where) : keys(json, where), json_(json) {}

  base::JsonReader keys;
  std::vector<std::string> warnings;
  /// The family documents its defaults here, where others take the reference's: no warning of what is not given.
  bool silent_defaults = false;

  bool is_null(std::string_view key) const;  // there, and null

  /// Widths, vocabulary, context, tied embeddings and final norm of a decoder with RMSNorm, and one block for each
  /// layer with plain grouped-query attention, RoPE and a SwiGLU FFN. The family changes what is different.
  ModelSpec decoder(const ConfigDefaults& defaults);

  /// hidden_act, as transformers' ACT2FN names it. Refuses those that no kernel computes.
  ops::Activation activation(std::string_view key = "hidden_act", std::string_view otherwise = "silu");
  /// rope_scaling + rope_theta of old files, rope_parameters of new ones.
  layers::RopeSpec rope(int64_t head_dim, int64_t context, const RopeDefaults& defaults);
  /// The same from one object, called `name` in errors: of families with one for each kind of layer.
  layers::RopeSpec rope_of(const base::Json& parameters, const std::string& name, int64_t head_dim, int64_t context,
                           const RopeDefaults& defaults);
  /// The rotary embedding of one kind of layer ("sliding_attention"), of configs whose rope_parameters have one for
  /// each; the defaults' where the file has none. Refuses the object where it is not by kind.
  layers::RopeSpec rope_of_kind(std::string_view kind, int64_t head_dim, int64_t context, const RopeDefaults& defaults);

  /// Which layers have experts: by mlp_layer_types ("sparse", "dense"), or else where sparse(layer).
  std::vector<bool> sparse_layers(const ModelSpec& spec, base::FunctionRef<bool(int64_t layer)> sparse);
  /// A key that transformers does not read, since its family has one value: refused when the file has another.
  void expect(std::string_view key, const base::Json& value);

  /// sliding_window, refused when it is below 1; nothing when null, or absent without a default.
  std::optional<int64_t> sliding_window(std::optional<int64_t> otherwise = {});
  /// A window for every layer.
  void set_window(ModelSpec& spec, std::optional<int64_t> window);
  /// By layer_types, or else where slides(layer).
  void set_windows(ModelSpec& spec, std::optional<int64_t> window, base::FunctionRef<bool(int64_t layer)> slides);

  /// attention_bias, for q, k, v and the output of every layer; all mixers must be attention still.
  void set_attention_biases(ModelSpec& spec, bool otherwise = false);
  /// mlp_bias, for every layer; all FFNs must be dense still.
  void set_ffn_biases(ModelSpec& spec);

  /// An integer under any of several spellings, which must agree.
  int64_t integer_of(std::initializer_list<std::string_view> spellings, int64_t otherwise);
  int64_t experts(int64_t otherwise);
  int64_t experts_per_token(int64_t otherwise);
  /// What transformers adds to the loss: router_aux_loss_coef when output_router_logits.
  float router_aux_loss(double coefficient);

  /// Refuses a key that transformers honours for other families, or whose name promises an effect, unless it is absent,
  /// null or has a value that means "without".
  void refuse_foreign_keys();

 private:
  /// Warns that the file does not say `key`, where that decides what is computed.
  void note_default(std::string_view key, const std::string& value);

  const base::Json& json_;
};

/// Puts experts in the place of a dense FFN, each of its width and with its activation.
void turn_into_experts(BlockSpec& block, layers::MoeSpec moe);

}  // namespace coterie::families
