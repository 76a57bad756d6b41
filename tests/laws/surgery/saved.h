#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/tensor_sink.h"
#include "families/family.h"
#include "laws/models/bench.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "surgery/write/convert.h"

// What the laws of surgery share.
namespace coterie::laws {

using base::ErrorKind;
using base::Json;

/// The tiny configs have their family's switches on. Those that GGUF cannot say, by the word that is refused, and what
/// takes them away (null: the key).
struct Unsaid {
  std::string word;
  Json without;
};
inline const std::map<std::string, Unsaid>& unsaid() {
  static const std::map<std::string, Unsaid> all = {
      {"qwen2", {"sliding window", {{"use_sliding_window", false}}}},
      {"gemma2", {"scale of the scores", {{"query_pre_attn_scalar", 16}}}},
      {"gemma3_text", {"scale of the scores", {{"query_pre_attn_scalar", 16}}}},
      {"gpt_oss", {"limit of the experts' SwiGLU", {{"swiglu_limit", 7}}}},
      {"phimoe",
       {"magnitude",
        {{"router_jitter_noise", 0.01},
         {"rope_scaling",
          {{"type", "longrope"},
           {"short_mscale", 1.1},
           {"long_mscale", 1.1},
           {"original_max_position_embeddings", 400},
           {"short_factor", {1, 1.5, 2, 3}},
           {"long_factor", {1, 1.5, 2, 3}}}}}}},
      {"kimi_linear", {"number of key heads", {{"linear_num_heads", 4}}}},
      {"lfm2", {"short_conv.in.bias", {{"conv_bias", false}}}},
      {"mamba2", {"limits of the time step", {{"time_step_limit", nullptr}}}},
      {"ernie4_5_moe", {"no name for", {{"use_bias", nullptr}, {"moe_norm_min", nullptr}}}},
      {"hy_v3", {"no name for", {{"mlp_bias", nullptr}}}},
      {"laguna", {"softcap of the router", {{"moe_router_logit_softcapping", nullptr}}}},
      {"llama4_text", {"chunk", {{"attention_chunk_size", nullptr}, {"floor_scale", nullptr}}}},
      {"dots1", {"sliding window", {{"sliding_window", nullptr}, {"max_window_layers", nullptr}}}},
  };
  return all;
}

inline Json without(Json config, const Json& changes) {
  for (const auto& [key, value] : changes.items())
    if (value.is_null())
      config.erase(key);
    else
      config[key] = value;
  return config;
}
/// The family's tiny config without what GGUF cannot say.
inline Json sayable(const std::string& family) {
  const Json& config = tiny::configs().at(family);
  const auto found = unsaid().find(family);
  return found == unsaid().end() ? config : without(config, found->second.without);
}

/// A folder of a tiny model, opened.
struct Saved {
  explicit Saved(const Json& config) : Saved(config, drawn(config)) {}
  Saved(const Json& config, const std::vector<checkpoint::MemoryTensor>& weights) {
    std::vector<checkpoint::TensorToWrite> tensors;
    for (const checkpoint::MemoryTensor& t : weights)
      tensors.push_back({t.name, t.dtype, t.shape, [&t](const auto& write) { write(t.bytes); }});
    folder.write("config.json", config.dump());
    checkpoint::write_safetensors(folder / "model.safetensors", tensors);
    model = families::open_model(folder.path());
  }
  static std::vector<checkpoint::MemoryTensor> drawn(const Json& config) {
    return tiny::weights(families::read_config(config, "tiny", true), 1);
  }
  surgery::Converted convert(const surgery::ConvertOptions& options = {}) const {
    return surgery::convert(model, folder / "out.gguf", options);
  }
  families::Model converted(const std::string& name = "out.gguf") const {
    families::OpenOptions strict;
    strict.strict = true;
    return families::open_model(folder / name, strict);
  }
  TempFolder folder;
  families::Model model;
};

/// Same names, types, shapes and bytes.
inline void expect_same_tensors(const checkpoint::TensorSource& a, const checkpoint::TensorSource& b) {
  EXPECT_EQ(a.tensors().size(), b.tensors().size());
  for (const checkpoint::TensorInfo& t : a.tensors()) {
    const checkpoint::TensorInfo* other = b.find(t.name);
    if (!other) {
      ADD_FAILURE() << t.name << " is missing";
      continue;
    }
    EXPECT_EQ(tensor::name(t.dtype), tensor::name(other->dtype)) << t.name;
    EXPECT_EQ(t.shape, other->shape) << t.name;
    EXPECT_TRUE(std::equal(t.bytes.begin(), t.bytes.end(), other->bytes.begin(), other->bytes.end())) << t.name;
  }
}

}  // namespace coterie::laws
