#include <gtest/gtest.h>

#include <memory>

#include "families/family.h"
#include "kernels/table.h"
#include "layers/resident_state.h"
#include "models/account.h"
#include "models/blank_decoder.h"
#include "support/expect_error.h"

// The model_type of our own: what its keys say and what they may not say.
namespace coterie::families {
namespace {

using base::ErrorKind;
using base::Json;

// github.com/AviSoori1x/makeMoE: a character model of tiny Shakespeare.
Json makemoe() {
  return {{"model_type", "coterie"},
          {"vocab_size", 65},
          {"hidden_size", 128},
          {"num_hidden_layers", 8},
          {"max_position_embeddings", 32},
          {"norm", "layer"},
          {"positions", "learned"},
          {"num_attention_heads", 8},
          {"attention_output_bias", true},
          {"ffn", "moe"},
          {"moe_intermediate_size", 512},
          {"hidden_act", "relu"},
          {"gated", false},
          {"ffn_bias", true},
          {"router",
           {{"experts", 8},
            {"experts_per_token", 2},
            {"order", "select_then_score"},
            {"bias", true},
            {"noise", true},
            {"noise_bias", true}}},
          {"head_bias", true}};
}

ModelSpec read(const Json& changes) {
  Json config = makemoe();
  config.update(changes);
  for (auto key = config.begin(); key != config.end();) key = key->is_null() ? config.erase(key) : std::next(key);
  return read_config(config, "config.json", true);
}

// There is no reference that another program could go by.
TEST(Coterie, DefaultsOfItsOwnAreNotWarnedOf) {
  EXPECT_TRUE(read({{"positions", "rope"}, {"norm", "rms"}}).warnings.empty());
}

TEST(Coterie, MakeMoesModelHasItsPublishedParameters) { EXPECT_EQ(account(read(Json::object())).total(), 8996545); }

TEST(Coterie, SaysEveryBlockByAPeriod) {
  const ModelSpec spec = read({{"mixer", {"mamba", "attention"}},
                               {"ffn", {"dense", "none", "moe", "moe"}},
                               {"intermediate_size", 96},
                               {"positions", "rope"},
                               {"norm", {{"kind", "rms"}, {"eps", 1e-4}}},
                               {"norm_place", "after"}});
  ASSERT_EQ(spec.blocks.size(), 8);
  for (size_t i = 0; i < 8; ++i) {
    const BlockSpec& block = spec.blocks[i];
    EXPECT_EQ(std::holds_alternative<layers::MambaSpec>(block.mixer), i % 2 == 0);
    EXPECT_EQ(std::holds_alternative<layers::AttentionSpec>(block.mixer), i % 2 == 1);
    EXPECT_EQ(std::holds_alternative<layers::DenseFfnSpec>(block.ffn), i % 4 == 0);
    EXPECT_EQ(std::holds_alternative<layers::NoFfnSpec>(block.ffn), i % 4 == 1);
    EXPECT_FALSE(block.mixer_norm || block.ffn_norm);
    EXPECT_EQ(block.ffn_post_norm.has_value(), i % 4 != 1);
    EXPECT_FLOAT_EQ(block.mixer_post_norm->eps, 1e-4f);
  }
  EXPECT_EQ(std::get<layers::DenseFfnSpec>(spec.blocks[0].ffn).hidden, 96);
  EXPECT_EQ(std::get<layers::MoeSpec>(spec.blocks[2].ffn).hidden, 512);
  EXPECT_TRUE(std::get<layers::AttentionSpec>(spec.blocks[1].mixer).rope);
  EXPECT_EQ(spec.learned_positions, 0);
}

TEST(Coterie, RefusesWhatItDoesNotHonourByName) {
  const std::tuple<Json, ErrorKind, const char*> cases[] = {
      {{{"hidden_act", "mish"}}, ErrorKind::unsupported, "hidden_act"},
      {{{"norm", "batch"}}, ErrorKind::unsupported, "norm"},
      {{{"norm", {{"kind", "rms"}, {"bias", true}}}}, ErrorKind::unsupported, "bias"},
      {{{"norm", {{"knd", "rms"}}}}, ErrorKind::bad_input, "knd"},
      {{{"positions", "alibi"}}, ErrorKind::unsupported, "positions"},
      {{{"positions", "rope"}, {"mixer", "mamba"}}, ErrorKind::bad_input, "rope"},
      {{{"mixer", "lstm"}}, ErrorKind::unsupported, "lstm"},
      {{{"mixer", {"mamba", "mamba", "attention"}}}, ErrorKind::bad_input, "mixer"},
      {{{"ffn", "sparse"}}, ErrorKind::unsupported, "sparse"},
      {{{"router", nullptr}}, ErrorKind::not_found, "router"},
      {{{"router", {{"experts", 8}, {"experts_per_token", 9}}}}, ErrorKind::bad_input, "router"},
      {{{"router", {{"experts", 8}, {"experts_per_token", 2}, {"renormalize", true}}}},
       ErrorKind::bad_input,
       "renormalize"},
      {{{"vocab_size", nullptr}}, ErrorKind::not_found, "vocab_size"},
      {{{"max_position_embeddings", 0}}, ErrorKind::bad_input, "max_position_embeddings"},
      {{{"num_attention_heads", 7}}, ErrorKind::bad_input, "num_attention_heads"},
      {{{"n_group", 4}}, ErrorKind::unsupported, "n_group"},
      {{{"hiden_act", "relu"}}, ErrorKind::unsupported, "hiden_act"},
      {{{"shared_expert_gate", true}}, ErrorKind::unsupported, "shared_expert_gate"},
  };
  for (const auto& [changes, kind, word] : cases) {
    SCOPED_TRACE(changes.dump());
    expect_error(kind, {word}, [&] { read(changes); });
  }
}

// As Gemma 3 has it: norms of 1 + w, windows in some layers, which have rotary positions of their own.
TEST(Coterie, SaysNormsWithAnOffsetAndWindowsByLayer) {
  const Json gemma = {{"norm", {{"kind", "rms"}, {"offset", 1}}},
                      {"norm_place", "both"},
                      {"qk_norm", "per_head"},
                      {"positions", "rope"},
                      {"rope_theta", 1e6},
                      {"sliding_window", 16},
                      {"layer_types", Json::array()},
                      {"sliding_rope", {{"rope_theta", 1e4}}}};
  Json config = gemma;
  for (int i = 0; i < 8; ++i) config["layer_types"].push_back(i % 4 == 3 ? "full_attention" : "sliding_attention");
  const ModelSpec spec = read(config);
  for (size_t i = 0; i < 8; ++i) {
    const auto& attention = std::get<layers::AttentionSpec>(spec.blocks[i].mixer);
    EXPECT_EQ(attention.window, i % 4 == 3 ? 0 : 16);
    EXPECT_EQ(attention.rope->theta, i % 4 == 3 ? 1e6 : 1e4);
    EXPECT_EQ(attention.qk_norm_offset, 1);
    EXPECT_EQ(spec.blocks[i].ffn_post_norm->weight_offset, 1);
  }
  const auto refused = [&](const Json& changes, std::initializer_list<std::string_view> words, ErrorKind kind) {
    Json changed = config;
    changed.update(changes);
    expect_error(kind, words, [&] { read(changed); });
  };
  refused({{"layer_types", {"full_attention"}}}, {"layer_types", "1 entries", "8"}, ErrorKind::bad_input);
  refused({{"layer_types", Json(8, "linear_attention")}}, {"linear_attention"}, ErrorKind::unsupported);
  refused({{"sliding_window", nullptr}}, {"sliding_window"}, ErrorKind::bad_input);
  refused({{"sliding_window", nullptr}, {"layer_types", nullptr}}, {"sliding_rope"}, ErrorKind::bad_input);
  refused({{"sliding_rope", {{"theta", 1e4}}}}, {"theta"}, ErrorKind::unsupported);
  refused({{"norm", {{"kind", "layer"}, {"offset", 1}}}}, {"offset"}, ErrorKind::unsupported);
}

TEST(Coterie, PositionsBeyondTheLearnedOnesAreRefused) {
  const ModelSpec spec = read({{"num_hidden_layers", 1}});
  const std::unique_ptr<models::Decoder> decoder = models::blank_decoder(spec);
  threads::Pool pool(1);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  layers::ResidentState state(cache_block_bytes(spec, tensor::DType::f32), tensor::DType::f32, state_floats(spec));
  state.reserve(33);
  const std::vector<int32_t> ids(33, 1);
  const models::SequenceStep fits[] = {{.ids = std::span(ids).first(32), .state = &state}};
  EXPECT_EQ(decoder->forward(context, fits).rows, 1);
  const models::SequenceStep long_one[] = {{.ids = ids, .state = &state}};
  expect_error(ErrorKind::bad_input, {"33 positions"}, [&] { decoder->forward(context, long_one); });
}

}  // namespace
}  // namespace coterie::families
