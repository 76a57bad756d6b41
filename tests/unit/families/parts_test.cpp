#include <gtest/gtest.h>

#include "base/json.h"
#include "families/family.h"
#include "families/shapes.h"
#include "models/account.h"
#include "tiny_model.h"

// What the configs of families with parts of their own say (a dense FFN beside experts, heads by kind of layer, experts
// without weights, lightning attention, indexers), beyond what the parity fixtures compute.
namespace coterie::families {
namespace {

using base::ErrorKind;
using base::Json;
using layers::AttentionSpec;

ModelSpec read(const std::string& family, const Json& changes) {
  Json json = tiny::configs().at(family);
  json.update(changes);
  return read_config(json, "test", true);
}

void expect_refused(const std::string& family, const Json& changes, const std::string& word) {
  SCOPED_TRACE(family + ": " + changes.dump());
  ErrorKind kind = ErrorKind::internal;
  std::string text;
  try {
    read(family, changes);
  } catch (const base::Error& error) {
    kind = error.kind(), text = error.what();
  }
  EXPECT_TRUE(kind == ErrorKind::unsupported || kind == ErrorKind::bad_input) << text;
  EXPECT_NE(text.find(word), std::string::npos) << text;
}

TEST(FamiliesOfParts, RefuseWhatTheyDoNotCompute) {
  expect_refused("gemma4_text", {{"hidden_size_per_layer_input", 256}}, "hidden_size_per_layer_input");
  expect_refused("gemma4_text", {{"num_kv_shared_layers", 1}}, "num_kv_shared_layers");
  expect_refused("gemma4_text", {{"use_bidirectional_attention", "all"}}, "use_bidirectional_attention");
  expect_refused("gemma4_text", {{"per_layer_config", {{"1", {{"sliding_window", 4}}}}}}, "sliding_window");
  expect_refused("mimo_v2_flash", {{"swa_num_key_value_heads", 3}}, "swa_num_key_value_heads");
  expect_refused("mimo_v2_flash", {{"add_full_attention_sink_bias", true}}, "add_full_attention_sink_bias");
  expect_refused("longcat_flash", {{"zero_expert_type", "copy"}}, "zero_expert_type");
  expect_refused("longcat_flash", {{"q_lora_rank", nullptr}}, "q_lora_rank");
  expect_refused("longcat_flash", {{"num_hidden_layers", 3}}, "num_layers");
  expect_refused("minimax", {{"layer_types", {"linear_attention", "mamba", "full_attention"}}}, "mamba");
  expect_refused("step3p5", {{"swiglu_limits", {1, 2}}}, "swiglu_limits");
  expect_refused("step3p5", {{"swiglu_limits", {0, 0.1, 0}}}, "clamped");
  expect_refused("deepseek_v32", {{"q_lora_rank", nullptr}}, "q_lora_rank");
  expect_refused("deepseek_v32", {{"index_topk", 0}}, "indexer");
  expect_refused("deepseek_v32", {{"index_head_dim", 4}}, "indexer");
  expect_refused("glm_moe_dsa", {{"indexer_types", {"shared", "full", "full"}}}, "layer 0");
}

// Of the layers' defaults in the reference's config classes.
TEST(FamiliesOfParts, KnowTheirLayersWithoutLists) {
  Json gemma = tiny::configs().at("gemma4_text");
  gemma.erase("layer_types"), gemma["num_hidden_layers"] = 8;
  const ModelSpec spec = read_config(gemma, "test", true);
  for (size_t i = 0; i < 8; ++i) {
    const auto& attention = std::get<AttentionSpec>(spec.blocks[i].mixer);
    EXPECT_EQ(attention.window > 0, i != 5 && i != 7) << i;  // the last one is full in any case
    EXPECT_EQ(attention.head_dim, i == 5 || i == 7 ? 24 : 16) << i;
    EXPECT_EQ(attention.values_are_keys, i == 5 || i == 7) << i;
    EXPECT_EQ(attention.rope->turning_dims, i == 5 || i == 7 ? 6 : 0) << i;
  }
}

// A token passes the experts with weights at most; those without have none.
TEST(FamiliesOfParts, AccountForWhatIsHeld) {
  const models::Account gemma = account(shape("gemma4-26b-a4b"));
  const int64_t d = 2816, expert = 3 * 704 * d, sliding = 2 * 16 * 256 * d + 2 * 8 * 256 * d + 2 * 256;
  const int64_t full = 2 * 16 * 512 * d + 2 * 512 * d + 2 * 512, norms = 7 * d;
  const auto whole = [&](int64_t experts) {
    return 262144 * d + d + 25 * sliding + 5 * full +
           30 * (experts * expert + 3 * 2112 * d + norms + 128 * d + d + 128);
  };
  EXPECT_EQ(gemma.total(), whole(128));
  EXPECT_EQ(gemma.total_active(), whole(8));
  const models::Account longcat = account(read("longcat_flash", Json::object()));
  EXPECT_EQ(longcat.held[static_cast<size_t>(layers::Place::experts)], 2 * 5 * 3 * 32 * 32);
  EXPECT_EQ(longcat.active[static_cast<size_t>(layers::Place::experts)], 2 * 3 * 3 * 32 * 32);
}

TEST(Shapes, OfFewerLayersHaveShorterLists) {
  EXPECT_EQ(shape("lfm2-8b-a1b", 6).blocks.size(), 6u);
  EXPECT_EQ(shape("lfm2-8b-a1b", 1).blocks.size(), 1u);
  EXPECT_EQ(shape("gemma4-26b-a4b", 7).blocks.size(), 7u);
  EXPECT_THROW(shape("lfm2-8b-a1b", 25), base::Error);
}

}  // namespace
}  // namespace coterie::families
