#include "families/names/name_table.h"

// Names as transformers' save_pretrained writes them and as published checkpoints have them.
namespace coterie::families {

NameTable hugging_face_names() {
  const std::string layer = "model.layers.{layer}.", path = "blocks.{layer}.";
  NameTable table;
  const auto name = [&](const std::string& ours, const std::string& theirs) { table.names[ours] = {{theirs}}; };
  name("embedding", "model.embed_tokens.weight");
  name("final_norm", "model.norm.weight");
  name("head", "lm_head.weight"), name("head.bias", "lm_head.bias");
  name(path + "mixer_norm", layer + "input_layernorm.weight");
  name(path + "ffn_norm", layer + "post_attention_layernorm.weight");
  for (const std::string part : {"q", "k", "v", "o"}) {
    name(path + "attention." + part, layer + "self_attn." + part + "_proj.weight");
    name(path + "attention." + part + ".bias", layer + "self_attn." + part + "_proj.bias");
  }
  for (const std::string part : {"q", "k"})
    name(path + "attention." + part + "_norm", layer + "self_attn." + part + "_norm.weight");
  for (const std::string part : {"gate", "up", "down"}) {
    name(path + "ffn." + part, layer + "mlp." + part + "_proj.weight");
    name(path + "ffn." + part + ".bias", layer + "mlp." + part + "_proj.bias");
  }
  // Buffers that old releases saved: computed from the config here and there.
  table.inert = {"model.layers.{layer}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"};
  return table;
}

NameTable hugging_face_moe_names(const std::string& block, const std::string& gate, const std::string& up,
                                 const std::string& down) {
  NameTable table = hugging_face_names();
  const std::string path = "blocks.{layer}.moe.", published = "model.layers.{layer}." + block + ".";
  const std::string in_memory = "model.layers.{layer}.mlp.";  // transformers 5 calls every MoE block mlp
  table.names[path + "router"] = {{published + "gate.weight"}};
  if (published != in_memory) table.names[path + "router"].push_back({in_memory + "gate.weight"});
  const std::string merged = published + "experts.{expert}.gate_up_proj.weight";
  table.names[path + "experts.gate"] = {{published + "experts.{expert}." + gate + ".weight"},
                                        {published + "experts." + gate + ".weight"},
                                        {in_memory + "experts.gate_up_proj", Piece::first_half},
                                        {merged, Piece::first_half}};
  table.names[path + "experts.up"] = {{published + "experts.{expert}." + up + ".weight"},
                                      {published + "experts." + up + ".weight"},
                                      {in_memory + "experts.gate_up_proj", Piece::second_half},
                                      {merged, Piece::second_half}};
  table.names[path + "experts.down"] = {{published + "experts.{expert}." + down + ".weight"},
                                        {published + "experts." + down + ".weight"},
                                        {in_memory + "experts.down_proj"}};
  for (const std::string part : {"gate", "up", "down"})
    table.names[path + "shared." + part] = {{in_memory + "shared_expert." + part + "_proj.weight"}};
  table.names[path + "shared_gate"] = {{in_memory + "shared_expert_gate.weight"}};
  return table;
}

}  // namespace coterie::families
