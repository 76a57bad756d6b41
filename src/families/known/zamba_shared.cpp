#include "families/known/zamba_shared.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace coterie::families::zamba {

using base::ErrorKind;
using base::fail;

void share(ModelSpec& spec, const layers::SharedBlockSpec& block, int64_t blocks,
           const std::vector<std::string>& kinds) {
  int64_t uses = 0;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    if (kinds[i] != "hybrid") continue;
    spec.blocks[i].shared = layers::SharedUseSpec{spec.tied_embeddings ? uses % blocks : uses, uses};
    ++uses;
  }
  // The reference ties the blocks with the embeddings or not at all. Blocks whose turn never comes have no weights.
  const int64_t stored = spec.tied_embeddings ? std::min(blocks, uses) : uses;
  for (int64_t first = 0; first < stored; ++first) {
    spec.shared.push_back(block);
    spec.shared.back().first_use = first;
    for (int64_t use = first % blocks; use < uses; use += blocks) spec.shared.back().adapters.push_back(use);
  }
}

layers::AttentionSpec attention(ConfigReader& config, int64_t width, int64_t heads) {
  layers::AttentionSpec attention;
  attention.heads = config.keys.integer("num_attention_heads", heads);
  if (attention.heads < 1)
    fail(ErrorKind::bad_input, config.keys.where(), "num_attention_heads is {}", attention.heads);
  attention.kv_heads = config.keys.integer("num_key_value_heads", attention.heads);
  // The reference takes head_dim for another spelling of it.
  attention.head_dim = config.integer_of({"attention_head_dim", "head_dim"}, 2 * width / attention.heads);
  attention.value_dim = attention.head_dim;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim) / 2);
  const int64_t input = config.keys.integer("attention_hidden_size", 2 * width);
  if (input != 2 * width)
    fail(ErrorKind::bad_input, config.keys.where(), "attention_hidden_size is {}, twice hidden_size is {}", input,
         2 * width);
  return attention;
}

NameTable names(const std::string& shared) {
  NameTable table;
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  table.names["embedding"] = {{"model.embed_tokens.weight"}};
  table.names["final_norm"] = {{"model.final_layernorm.weight"}};
  table.names["head"] = {{"lm_head.weight"}};
  table.names[path + "mixer_norm"] = {{layer + "input_layernorm.weight"},
                                      {layer + "mamba_decoder.input_layernorm.weight"}};
  table.names[path + "shared_projection"] = {{layer + "linear.weight"}};
  const std::string ours = path + "shared.", theirs = layer + shared + ".";
  table.names[ours + "norm"] = {{theirs + "input_layernorm.weight"}};
  table.names[ours + "ffn_norm"] = {{theirs + "pre_ff_layernorm.weight"}};
  for (const std::string part : {"q", "k", "v", "o"})
    table.names[ours + "attention." + part] = {{theirs + "self_attn." + part + "_proj.weight"}};
  for (const std::string part : {"gate", "up", "down"})
    table.names[ours + "ffn." + part] = {{theirs + "feed_forward." + part + "_proj.weight"}};
  return table;
}

}  // namespace coterie::families::zamba
