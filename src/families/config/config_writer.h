#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "base/json.h"
#include "models/spec.h"

namespace coterie::families {

struct Family;
using models::ModelSpec;

/// The dense model that a mixture is made of: its config.json and what that says.
struct ConfigParent {
  const base::Json& config;
  const ModelSpec& spec;
};

/// Writes config.json for the families: the parts that most of them share, as ConfigReader reads them. What a family
/// cannot say of a model is left out: a reader of the result may find another model (surgery compares).
class ConfigWriter {
 public:
  /// `parent`, where there is one, is a model that `spec` changes the FFNs of: what its config says of the rotary
  /// embedding, of tokens and of training goes along as it is.
  ConfigWriter(const Family& family, const ModelSpec& spec, const ConfigParent* parent = nullptr);

  base::Json json;

  /// nullptr when the model is made of no other.
  const ConfigParent* parent() const { return parent_; }
  /// The attention of the first layer that has one: where others have another, reading back finds it. Throws
  /// unsupported when there is none.
  const layers::AttentionSpec& attention() const;
  /// The widest of any layer; 0 = none slides.
  int64_t window() const;
  /// The width of the dense FFNs; where there is none, the parent's, or an expert's, which then has no effect.
  int64_t dense_width() const;

  /// Keys of every transformers decoder: class name, sizes, final RMSNorm, activation, tied embeddings, rotary
  /// embedding.
  void decoder();
  /// The same without class name, norm and FFN width, for configs that say those in other words.
  void sizes();
  /// rope_theta, and rope_scaling where positions are scaled.
  void rope(const layers::RopeSpec& rope);
  /// sliding_window, null where no layer has one.
  void sliding_window();
  /// "sliding_attention" or "full_attention" for each layer.
  std::vector<std::string> layer_types() const;
  /// attention_bias, by the query's.
  void attention_bias();
  /// mlp_bias.
  void ffn_bias();
  /// How many experts there are, under the family's `count` key, and how many serve a token.
  void experts(const char* count);
  /// mlp_layer_types: which layers have them.
  void expert_layers();
  /// embedding_multiplier, logits_scaling, residual_multiplier and attention_multiplier.
  void multipliers();
  /// Takes these keys of the parent, where it has them.
  void carry(std::initializer_list<const char*> keys);

 private:
  void carry_rope();

  const Family& family_;
  const ModelSpec& spec_;
  const ConfigParent* parent_;
  const layers::AttentionSpec* attention_ = nullptr;
};

/// The config.json of `spec` as `family` says it. The family must have a writer (Family::to_config).
base::Json write_config(const Family& family, const ModelSpec& spec, const ConfigParent* parent = nullptr);

/// The experts of the first layer that has some; nullptr for a dense model.
const layers::MoeSpec* first_moe(const ModelSpec& spec);

/// A number as people write it: 1e-05, not the 9.99999974e-06 that the nearest float widens to.
double decimal(float value);
double decimal(double value);

/// What hidden_act calls it: the first of the names that ConfigReader::activation reads.
std::string activation_name(ops::Activation activation);

/// What GGUF's rope_freqs.weight holds for a llama3 scaling: [dims / 2], by what each frequency is divided.
std::vector<float> llama3_divisors(const layers::RopeSpec& rope);
/// The same of a rotary embedding some pairs of which stand still (RopeSpec::turning_dims): ones, then 1e30.
std::vector<float> still_divisors(const layers::RopeSpec& rope);

}  // namespace coterie::families
