#include "families/weights/binder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "families/family.h"
#include "families/weights/export.h"
#include "support/expect_error.h"
#include "tiny_model.h"

namespace coterie::families {
namespace {

using checkpoint::MemoryTensor;
using tensor::DType;
using Tensors = std::vector<MemoryTensor>;

class BinderTest : public testing::Test {
 protected:
  ModelSpec spec = read_config(tiny::configs().at("qwen3_moe"), "tiny", true);
  Tensors tensors = tiny::weights(spec, 1);

  std::string refusal() {
    try {
      tiny::bind(spec, tensors);
      return "";
    } catch (const base::Error& error) {
      return error.what();
    }
  }
  void erase(const std::string& name) {
    tensors.erase(std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; }));
  }
  void expect_said(std::initializer_list<const char*> words) {
    const std::string message = refusal();
    for (const char* word : words) EXPECT_NE(message.find(word), std::string::npos) << word << " in: " << message;
  }
};

TEST_F(BinderTest, AWholeModelBinds) { EXPECT_EQ(refusal(), ""); }

TEST_F(BinderTest, AMissingTensorIsNamedWithWhatWasLookedFor) {
  erase("model.layers.0.mlp.experts.0.up_proj.weight");
  expect_said({"blocks.0.moe.experts.up", "model.layers.0.mlp.experts.0.up_proj.weight",
               "model.layers.0.mlp.experts.gate_up_proj"});
}

TEST_F(BinderTest, AMissingExpertIsNamed) {
  erase("model.layers.2.mlp.experts.11.down_proj.weight");
  expect_said({"model.layers.2.mlp.experts.11.down_proj.weight", "16 experts"});
}

TEST_F(BinderTest, AWrongShapeSaysBoth) {
  MemoryTensor& t = tiny::find(tensors, "model.layers.1.self_attn.k_proj.weight");
  t.shape = {16, 64};
  expect_said({"model.layers.1.self_attn.k_proj.weight", "[16, 64]", "[32, 32]"});
}

TEST_F(BinderTest, ATransposedMatrixIsRefusedEvenIfItsSizeFits) {
  MemoryTensor& t = tiny::find(tensors, "model.layers.1.mlp.up_proj.weight");
  std::swap(t.shape[0], t.shape[1]);
  expect_said({"[32, 64]", "[64, 32]"});
}

TEST_F(BinderTest, SurplusTensorsAreRefused) {
  tensors.push_back({"model.layers.3.input_layernorm.weight", DType::f32, {32}, std::vector<std::byte>(128)});
  expect_said({"model.layers.3.input_layernorm.weight", "no place"});
}

TEST_F(BinderTest, InertTensorsAreNot) {
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::f32, {8}, std::vector<std::byte>(32)});
  EXPECT_EQ(refusal(), "");
}

TEST_F(BinderTest, EightBitFloatsAndIntegersAreRefusedByName) {
  MemoryTensor& t = tiny::find(tensors, "model.layers.1.mlp.up_proj.weight");
  t.dtype = DType::f8_e4m3, t.bytes.resize(64 * 32);
  expect_said({"f8_e4m3", "model.layers.1.mlp.up_proj.weight"});
  t.dtype = DType::i8;
  expect_said({"i8", "model.layers.1.mlp.up_proj.weight"});
}

TEST_F(BinderTest, AQuantisedRouterIsDecodedAndWarnedAbout) {
  MemoryTensor& t = tiny::find(tensors, "model.layers.0.mlp.gate.weight");
  t.dtype = DType::q4_0, t.bytes.assign(16 * 18, std::byte{0});
  const auto source = checkpoint::memory_source(tensors);
  std::vector<std::string> warnings;
  const auto decoder = bind_decoder(spec, *source, &warnings);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("router"), std::string::npos);
  EXPECT_NE(warnings[0].find("q4_0"), std::string::npos);
  // It is f32 in memory and may be written as that; the file's own bytes may not be.
  EXPECT_NO_THROW(tensors_to_write(*decoder, names_for(spec, *source)));
  expect_error(base::ErrorKind::unsupported, {"model.layers.0.mlp.gate.weight", "q4_0", "router"},
               [&] { tensors_to_write(*source); });

  t.dtype = DType::q8_0, t.bytes.assign(16 * 34, std::byte{0});
  const auto better = checkpoint::memory_source(tensors);
  warnings.clear();
  bind_decoder(spec, *better, &warnings);
  EXPECT_TRUE(warnings.empty());
  EXPECT_NO_THROW(tensors_to_write(*better));
}

// The config ties, the file has a head as well.
class TiedTest : public BinderTest {
 protected:
  TiedTest() {
    spec = read_config(tiny::configs().at("llama"), "tiny", true);
    tensors = tiny::weights(spec, 1);
    head = tiny::find(tensors, "model.embed_tokens.weight");
    head.name = "lm_head.weight";
  }
  std::unique_ptr<models::Decoder> bind(const checkpoint::TensorSource& source) {
    return bind_decoder(spec, source, &warnings);
  }
  MemoryTensor head;
  std::vector<std::string> warnings;
};

TEST_F(TiedTest, AnEqualHeadIsADuplicate) {
  tensors.push_back(head);
  const auto source = checkpoint::memory_source(tensors);
  EXPECT_TRUE(bind(*source)->spec().tied_embeddings);
  EXPECT_TRUE(warnings.empty());
}

TEST_F(TiedTest, ADifferentHeadIsUsedAsTheReferenceDoes) {
  head.bytes[5] ^= std::byte{1};
  tensors.push_back(head);
  const auto source = checkpoint::memory_source(tensors);
  EXPECT_FALSE(bind(*source)->spec().tied_embeddings);
  EXPECT_EQ(warnings.size(), 1u);
}

TEST_F(TiedTest, TheHeadAloneServesBoth) {
  tiny::find(tensors, "model.embed_tokens.weight").name = "lm_head.weight";
  EXPECT_EQ(refusal(), "");
}

// Pieces of merged tensors, by a table of the test's own: halves and alternating rows, also where F = D.
TEST(Pieces, HalvesAndAlternatingRows) {
  std::vector<std::byte> bytes(2 * 4 * 2 * 4);
  for (size_t i = 0; i < bytes.size() / 4; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(bytes.data() + 4 * i, &value, 4);
  }
  const auto source = checkpoint::memory_source({{"merged", DType::f32, {2, 4, 2}, bytes}});  // [E, 2F, D], F = D = 2
  const auto first_of_expert = [&](Piece piece, size_t expert, int64_t row) {
    layers::MoeSpec moe;
    moe.router.experts = 2, moe.router.experts_per_token = 1, moe.hidden = 2;
    struct Reader : layers::TensorReader {
      std::vector<tensor::Weight> found;
      void stack(const Tensor& t, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>& slots) override {
        if (t.path.ends_with("experts.up")) found = slots;
      }
    };
    ModelSpec spec;
    spec.family.model_type = "mixtral", spec.vocabulary = 1, spec.width = 2, spec.tied_embeddings = true;
    layers::AttentionSpec attention;
    attention.heads = attention.kv_heads = 1, attention.head_dim = attention.value_dim = 2;
    layers::BlockSpec block;
    block.mixer_norm = block.ffn_norm = layers::NormSpec{};
    block.mixer = attention, block.ffn = moe;
    spec.blocks.push_back(block);
    models::Network network(spec);
    NameTable table;
    for (const char* path : {"embedding", "final_norm", "blocks.{layer}.mixer_norm", "blocks.{layer}.ffn_norm",
                             "blocks.{layer}.attention.q", "blocks.{layer}.attention.k", "blocks.{layer}.attention.v",
                             "blocks.{layer}.attention.o", "blocks.{layer}.moe.router"})
      table.names[path] = {{path}};
    table.names["blocks.{layer}.moe.experts.gate"] = {{"merged", Piece::first_half}};
    table.names["blocks.{layer}.moe.experts.down"] = {{"merged", Piece::first_half}};
    table.names["blocks.{layer}.moe.experts.up"] = {{"absent"}, {"merged", piece}};
    std::vector<MemoryTensor> tensors = {{"merged", DType::f32, {2, 4, 2}, bytes}};
    const auto add = [&](const std::string& name, tensor::Shape shape) {
      const auto size = static_cast<size_t>(tensor::element_count(shape)) * 4;
      tensors.push_back({expand(name, 0), DType::f32, std::move(shape), std::vector<std::byte>(size)});
    };
    add("embedding", {1, 2}), add("final_norm", {2}), add("blocks.{layer}.mixer_norm", {2});
    add("blocks.{layer}.ffn_norm", {2}), add("blocks.{layer}.moe.router", {2, 2});
    for (const char* part : {"q", "k", "v", "o"}) add(std::string("blocks.{layer}.attention.") + part, {2, 2});
    const auto all = checkpoint::memory_source(tensors);
    bind(network, *all, table, true);
    Reader reader;
    network.read(reader);
    float value;
    std::memcpy(&value, reader.found[expert].row(row), 4);
    EXPECT_EQ(reader.found[expert].rows, 2);
    return value;
  };
  EXPECT_EQ(first_of_expert(Piece::first_half, 0, 0), 0);
  EXPECT_EQ(first_of_expert(Piece::first_half, 1, 1), 8 + 2);
  EXPECT_EQ(first_of_expert(Piece::second_half, 0, 1), 6);
  EXPECT_EQ(first_of_expert(Piece::even_rows, 0, 1), 4);
  EXPECT_EQ(first_of_expert(Piece::odd_rows, 1, 0), 8 + 2);
  EXPECT_EQ(first_of_expert(Piece::odd_rows, 1, 1), 8 + 6);
}

}  // namespace
}  // namespace coterie::families
