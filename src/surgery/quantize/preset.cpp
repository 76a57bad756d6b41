#include "surgery/quantize/preset.h"

#include <algorithm>
#include <cctype>

#include "layers/specs.h"

namespace coterie::surgery {

using layers::Place;
using tensor::DType;

PresetFacts::PresetFacts(const models::ModelSpec& spec, bool with_importance) : importance(with_importance) {
  layers = static_cast<int64_t>(spec.blocks.size());
  tied = spec.tied_embeddings;
  for (const models::BlockSpec& block : spec.blocks) {
    attention_rank.push_back(attention_layers);
    const auto* attention = std::get_if<layers::AttentionSpec>(&block.mixer);
    if (attention) queries_per_key = attention->heads / std::max<int64_t>(attention->kv_heads, 1);
    attention_layers += attention || std::holds_alternative<layers::LatentAttentionSpec>(block.mixer);
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) experts = std::max(experts, moe->router.experts);
  }
}

namespace {

constexpr std::string_view kMore =
    "attention's values and the FFN's down in q6_k in the first and last eighth of the "
    "layers and every third between";

std::vector<Preset> make_presets() {
  return {
      {"q2_k", DType::q2_k, 10, "values and attention's output q3_k or q4_k, down q3_k"},
      {"q3_k_s", DType::q3_k, 11, ""},
      {"q3_k_m", DType::q3_k, 12, "values and down q4_k, in the first layers q5_k; attention's output q4_k"},
      {"q3_k_l", DType::q3_k, 13, "values, down and attention's output q5_k"},
      {"iq4_xs", DType::iq4_xs, 30,
       "values q5_k where 4 heads or more share one; without importance also the first "
       "eighth of down"},
      {"mxfp4", DType::mxfp4, 38, "the experts (of a dense model the FFN), all else q8_0"},
      {"q4_0", DType::q4_0, 2, "with importance the first eighth of down q4_1"},
      {"iq4_nl", DType::iq4_nl, 25, "as iq4_xs"},
      {"q4_k_s", DType::q4_k, 14, "values of the first four layers and the first eighth of down q5_k"},
      {"q4_k_m", DType::q4_k, 15, kMore},
      {"q4_1", DType::q4_1, 3, ""},
      {"q5_0", DType::q5_0, 8, "with importance the first eighth of down q5_1"},
      {"q5_k_s", DType::q5_k, 16, ""},
      {"q5_k_m", DType::q5_k, 17, kMore},
      {"q5_1", DType::q5_1, 9, ""},
      {"q6_k", DType::q6_k, 18, ""},
      {"q8_0", DType::q8_0, 7, ""},
      {"bf16", DType::bf16, 32, ""},
      {"f16", DType::f16, 1, ""},
      {"f32", DType::f32, 0, ""},
  };
}

enum class PresetPart { values, keys, output, down, other };

PresetPart part_of(const std::string& path) {
  const auto ends = [&](std::string_view end) { return path.ends_with(end); };
  if (ends(".attention.v") || ends(".latent.v_b")) return PresetPart::values;
  if (ends(".attention.k")) return PresetPart::keys;
  if (ends(".attention.o") || ends(".latent.o")) return PresetPart::output;
  if (ends(".ffn.down") || ends(".experts.down") || ends(".shared.down")) return PresetPart::down;
  return PresetPart::other;
}

// Where llama.cpp's *_m mixtures spend their bits.
bool gets_more(int64_t i, int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

}  // namespace

DType Preset::format(const Role& role, const PresetFacts& facts) const {
  const auto is = [&](std::string_view other) { return name == other; };
  if (!tensor::is_block(base)) return base;
  if (role.place == Place::output_embeddings || (role.path == "embedding" && facts.tied))
    return is("mxfp4") || base == DType::q8_0 ? DType::q8_0 : DType::q6_k;
  if (is("mxfp4")) {
    const Place place = facts.experts > 0 ? Place::experts : Place::dense_ffn;
    return role.place == place ? base : DType::q8_0;
  }
  if (role.path == "embedding") return base;

  const PresetPart part = part_of(role.path);
  if (part == PresetPart::other) return base;
  const int64_t layer = families::path_pattern(role.path).layer, n = facts.layers;
  const bool eight = facts.experts == 8, many = facts.queries_per_key >= 4;
  const bool iq4 = is("iq4_nl") || is("iq4_xs"), medium = is("q4_k_m") || is("q5_k_m");
  switch (part) {
    case PresetPart::values: {
      const int64_t i = facts.attention_rank[static_cast<size_t>(layer)];
      if (eight) return DType::q8_0;  // as for keys: next to nothing beside eight experts
      if (is("q2_k")) return many ? DType::q4_k : DType::q3_k;
      if (is("q3_k_m")) return i < 2 ? DType::q5_k : DType::q4_k;
      if (is("q3_k_l") || (iq4 && many)) return DType::q5_k;
      if (medium && gets_more(i, facts.attention_layers)) return DType::q6_k;
      if (is("q4_k_s") && i < 4) return DType::q5_k;
      return base;
    }
    case PresetPart::keys: return eight ? DType::q8_0 : base;
    case PresetPart::output:
      if (eight && (is("q2_k") || is("q3_k_s") || is("q3_k_m") || is("q4_k_s") || is("q4_k_m") || iq4))
        return DType::q5_k;
      if (eight) return base;
      if (is("q2_k")) return DType::q3_k;
      if (is("q3_k_m")) return DType::q4_k;
      return is("q3_k_l") ? DType::q5_k : base;
    case PresetPart::down:
      if (is("q2_k")) return DType::q3_k;
      if (is("q3_k_m")) return layer < n / 16 ? DType::q5_k : DType::q4_k;
      if (is("q3_k_l")) return DType::q5_k;
      if (medium && gets_more(layer, n)) return DType::q6_k;
      if (layer >= n / 8) return base;
      if (is("q4_k_s") || (iq4 && !facts.importance)) return DType::q5_k;
      if (is("q4_0") && facts.importance) return DType::q4_1;
      return is("q5_0") && facts.importance ? DType::q5_1 : base;
    case PresetPart::other: break;
  }
  return base;
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = make_presets();
  return all;
}

const Preset* preset_by_name(std::string_view name) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const Preset& preset : presets())
    if (preset.name == lower) return &preset;
  return nullptr;
}

}  // namespace coterie::surgery
