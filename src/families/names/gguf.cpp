#include <utility>

#include "families/names/name_table.h"

// Names of GGUF files (gguf-py's tensor_mapping; llama.cpp's llama-arch.cpp). One table serves all architectures.
namespace coterie::families {

namespace {

struct GgufNames {
  const std::string layer = "blk.{layer}.", path = "blocks.{layer}.";
  NameTable table;

  /// Gives one of our names one name in the file.
  void name(const std::string& ours, const std::string& theirs) { table.names[ours] = {{theirs}}; }

  void add_model() {
    name("embedding", "token_embd.weight");
    name("final_norm", "output_norm.weight");
    name("head", "output.weight"), name("head.bias", "output.bias");
    name("final_norm.bias", "output_norm.bias");
    name(path + "mixer_norm", layer + "attn_norm.weight");
    // Some architectures call the norm before the FFN one after the attention.
    table.names[path + "ffn_norm"] = {{layer + "ffn_norm.weight"}, {layer + "post_attention_norm.weight"}};
    name(path + "mixer_norm.bias", layer + "attn_norm.bias"), name(path + "ffn_norm.bias", layer + "ffn_norm.bias");
    name(path + "attention.sinks", layer + "attn_sinks.weight");
    name(path + "mixer_post_norm", layer + "post_attention_norm.weight");
    name(path + "ffn_post_norm", layer + "post_ffw_norm.weight");
    // Read by gguf/metadata_reader.cpp into the RopeSpec.
    table.inert = {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"};
  }

  void add_attention() {
    const std::pair<const char*, const char*> attention[] = {
        {"q", "attn_q"}, {"k", "attn_k"}, {"v", "attn_v"}, {"o", "attn_output"}};
    for (const auto& [ours, theirs] : attention) {
      name(path + "attention." + ours, layer + theirs + ".weight");
      name(path + "attention." + ours + ".bias", layer + theirs + ".bias");
    }
    for (const auto& [ours, piece] :
         {std::pair("q", Piece::front), std::pair("k", Piece::before_back), std::pair("v", Piece::back)}) {
      table.names[path + "attention." + ours].push_back({layer + "attn_qkv.weight", piece});
      table.names[path + "attention." + ours + ".bias"].push_back({layer + "attn_qkv.bias", piece});
    }
    for (const std::string part : {"q", "k"})
      name(path + "attention." + part + "_norm", layer + "attn_" + part + "_norm.weight");
    name(path + "attention.gate", layer + "attn_gate.weight");
  }

  /// Older files keep keys and values of a head in one tensor.
  void add_latent_attention() {
    const std::pair<const char*, const char*> latent[] = {
        {"q", "attn_q"}, {"q_a", "attn_q_a"}, {"q_b", "attn_q_b"}, {"kv_a", "attn_kv_a_mqa"}, {"o", "attn_output"}};
    for (const auto& [ours, theirs] : latent) {
      name(path + "latent." + ours, layer + theirs + ".weight");
      name(path + "latent." + ours + ".bias", layer + theirs + ".bias");
    }
    name(path + "latent.q_a_norm", layer + "attn_q_a_norm.weight");
    name(path + "latent.kv_a_norm", layer + "attn_kv_a_norm.weight");
    table.names[path + "latent.k_b"] = {{layer + "attn_k_b.weight"}, {layer + "attn_kv_b.weight", Piece::head_keys}};
    table.names[path + "latent.v_b"] = {{layer + "attn_v_b.weight"}, {layer + "attn_kv_b.weight", Piece::head_values}};
    name(path + "latent.gate", layer + "attn_gate.weight");
  }

  void add_ffn() {
    for (const std::string part : {"gate", "up", "down"}) {
      name(path + "ffn." + part, layer + "ffn_" + part + ".weight");
      name(path + "ffn." + part + ".bias", layer + "ffn_" + part + ".bias");
      // [E, rows, cols]; files made before April 2024 have a tensor for each expert.
      auto& experts = table.names[path + "moe.experts." + part];
      experts = {{layer + "ffn_" + part + "_exps.weight"}, {layer + "ffn_" + part + ".{expert}.weight"}};
      if (part == "gate") experts.push_back({layer + "ffn_gate_up_exps.weight", Piece::first_half});
      if (part == "up") experts.push_back({layer + "ffn_gate_up_exps.weight", Piece::second_half});
      name(path + "moe.experts." + part + ".bias", layer + "ffn_" + part + "_exps.bias");
      name(path + "moe.shared." + part, layer + "ffn_" + part + "_shexp.weight");
    }
    name(path + "moe.router", layer + "ffn_gate_inp.weight");
    name(path + "moe.router.bias", layer + "ffn_gate_inp.bias");
    name(path + "moe.router.selection_bias", layer + "exp_probs_b.bias");
    name(path + "moe.shared_gate", layer + "ffn_gate_inp_shexp.weight");
    name(path + "moe.latent_in", layer + "ffn_latent_down.weight");
    name(path + "moe.latent_out", layer + "ffn_latent_up.weight");
  }

  /// ssm_in of Mamba holds x and then the gate; ssm_a holds A, -exp(A_log).
  void add_state_space() {
    name(path + "mamba.in", layer + "ssm_in.weight"), name(path + "mamba.gate", layer + "ssm_in.weight");
    table.names[path + "mamba.in"].front().piece = Piece::first_half;
    table.names[path + "mamba.gate"].front().piece = Piece::second_half;
    name(path + "mamba.select", layer + "ssm_x.weight"), name(path + "mamba.dt", layer + "ssm_dt.weight");
    for (const std::string part : {"dt", "b", "c"})
      name(path + "mamba." + part + "_norm", layer + "ssm_" + part + "_norm.weight");
    name(path + "mamba2.in", layer + "ssm_in.weight"), name(path + "mamba2.norm", layer + "ssm_norm.weight");
    for (const std::string mixer : {"mamba.", "mamba2."}) {
      name(path + mixer + "conv", layer + "ssm_conv1d.weight");
      name(path + mixer + "conv.bias", layer + "ssm_conv1d.bias");
      name(path + mixer + "dt.bias", layer + "ssm_dt.bias");
      name(path + mixer + "d", layer + "ssm_d");
      name(path + mixer + "out", layer + "ssm_out.weight");
      table.names[path + mixer + "a_log"] = {{layer + "ssm_a", Piece::whole, true}};
    }
    for (const char* part : {"a_log", "d"}) table.names[path + "mamba2." + part].front().form = Form::column;
    table.names[path + "mamba2.norm"].front().form = Form::in_parts;
  }

  /// With q, k and v in one projection or in three.
  void add_delta_rule() {
    const std::pair<const char*, const char*> delta[] = {{"qkv", "attn_qkv.weight"},
                                                         {"q", "attn_q.weight"},
                                                         {"k", "attn_k.weight"},
                                                         {"v", "attn_v.weight"},
                                                         {"conv", "ssm_conv1d.weight"},
                                                         {"q_conv", "ssm_conv1d_q.weight"},
                                                         {"k_conv", "ssm_conv1d_k.weight"},
                                                         {"v_conv", "ssm_conv1d_v.weight"},
                                                         {"gate", "attn_gate.weight"},
                                                         {"gate_a", "ssm_g_a.weight"},
                                                         {"gate_b", "ssm_g_b.weight"},
                                                         {"beta", "ssm_beta.weight"},
                                                         {"decay", "ssm_alpha.weight"},
                                                         {"decay_a", "ssm_f_a.weight"},
                                                         {"decay_b", "ssm_f_b.weight"},
                                                         {"decay.bias", "ssm_dt.bias"},
                                                         {"norm", "ssm_norm.weight"},
                                                         {"out", "ssm_out.weight"}};
    for (const auto& [ours, theirs] : delta) name(path + "delta." + ours, layer + theirs);
    table.names[path + "delta.a_log"] = {{layer + "ssm_a", Piece::whole, true}};
  }

  void add_short_convolution() {
    const std::pair<const char*, const char*> short_conv[] = {
        {"in", "shortconv.in_proj.weight"},
        {"conv", "shortconv.conv.weight"},
        {"out", "shortconv.out_proj.weight"},
    };
    for (const auto& [ours, theirs] : short_conv) name(path + "short_conv." + ours, layer + theirs);
  }
};

}  // namespace

NameTable gguf_names() {
  GgufNames names;
  names.add_model();
  names.add_attention();
  names.add_latent_attention();
  names.add_ffn();
  names.add_state_space();
  names.add_delta_rule();
  names.add_short_convolution();
  return std::move(names.table);
}

}  // namespace coterie::families
