#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "checkpoint/random_source.h"
#include "families/family.h"
#include "families/gguf/gguf_vocabulary.h"
#include "families/open.h"

namespace coterie::families {
namespace {

using checkpoint::MemoryTensor;
using checkpoint::Metadata;
using layers::AttentionSpec;
using layers::MoeSpec;
using layers::RouterSpec;

/// Just what reading the metadata looks at: names and shapes, no values.
struct File {
  Metadata metadata;
  std::vector<MemoryTensor> tensors;

  explicit File(const std::string& architecture) {
    const std::string p = architecture + ".";
    metadata = {{"general.architecture", architecture},       {p + "block_count", uint64_t{2}},
                {p + "context_length", uint64_t{64}},         {p + "embedding_length", uint64_t{32}},
                {p + "feed_forward_length", uint64_t{48}},    {p + "attention.head_count", uint64_t{4}},
                {p + "attention.head_count_kv", uint64_t{2}}, {p + "attention.layer_norm_rms_epsilon", 1e-5}};
    add("token_embd.weight", {10, 32});
  }
  void add(const std::string& name, const tensor::Shape& shape, float value = 1) {
    std::vector<std::byte> bytes(static_cast<size_t>(tensor::element_count(shape)) * 4);
    for (size_t i = 0; i < bytes.size(); i += 4) std::memcpy(bytes.data() + i, &value, 4);
    tensors.push_back({name, tensor::DType::f32, shape, bytes});
  }
  ModelSpec read(bool strict = false) const {
    const auto source = checkpoint::memory_source(tensors, metadata, checkpoint::Format::gguf, "model.gguf");
    return read_gguf(*source, strict);
  }
  std::string refusal(bool strict = false) const {
    try {
      read(strict);
      return "";
    } catch (const base::Error& error) {
      return error.what();
    }
  }
};

const AttentionSpec& attention(const ModelSpec& spec, size_t layer = 0) {
  return std::get<AttentionSpec>(spec.blocks[layer].mixer);
}

TEST(GgufMetadata, LlamaIsInterleavedAndTiedWithoutOutput) {
  File file("llama");
  ModelSpec spec = file.read();
  EXPECT_EQ(spec.vocabulary, 10);
  EXPECT_EQ(attention(spec).rope->style, ops::RopeTable::Style::interleaved);
  EXPECT_EQ(attention(spec).head_dim, 8);
  EXPECT_TRUE(spec.tied_embeddings);
  EXPECT_FALSE(attention(spec).q_bias);
  file.add("output.weight", {10, 32});
  file.add("blk.1.attn_q.bias", {32});
  spec = file.read();
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_FALSE(attention(spec, 0).q_bias);
  EXPECT_TRUE(attention(spec, 1).q_bias);
}

TEST(GgufMetadata, RopeFrequenciesAreHonoured) {
  File file("llama");
  file.add("rope_freqs.weight", {4}, 2);
  EXPECT_EQ(attention(file.read()).rope->divisors, std::vector<float>(4, 2.0f));
  file.tensors.back().shape = {2};
  file.tensors.back().bytes.resize(8);
  EXPECT_NE(file.refusal().find("rope_freqs"), std::string::npos);
}

TEST(GgufMetadata, ExpertsOfEachArchitecture) {
  const auto router = [](const std::string& architecture, auto change) {
    File file(architecture);
    file.metadata[architecture + ".expert_count"] = uint64_t{8};
    file.metadata[architecture + ".expert_used_count"] = uint64_t{2};
    change(file.metadata);
    return std::get<MoeSpec>(file.read().blocks[0].ffn).router;
  };
  const auto nothing = [](Metadata&) {};
  EXPECT_TRUE(router("llama", nothing).renormalise);
  EXPECT_TRUE(router("qwen3moe", nothing).renormalise);
  EXPECT_FALSE(router("qwen2moe", nothing).renormalise);
  EXPECT_FALSE(router("olmoe", nothing).renormalise);
  EXPECT_EQ(router("olmoe", nothing).experts_per_token, 2);
  const RouterSpec said = router("qwen2moe", [](Metadata& m) {
    m["qwen2moe.expert_weights_norm"] = true;
    m["qwen2moe.expert_weights_scale"] = 2.5;
    m["qwen2moe.expert_gating_func"] = uint64_t{2};
  });
  EXPECT_TRUE(said.renormalise);
  EXPECT_FLOAT_EQ(said.scale, 2.5f);
  EXPECT_EQ(said.score, RouterSpec::Score::sigmoid);
  EXPECT_EQ(router("llama", [](Metadata& m) { m["llama.expert_gating_func"] = uint64_t{3}; }).order,
            RouterSpec::Order::select_then_score);
  EXPECT_THROW(router("llama", [](Metadata& m) { m["llama.expert_gating_func"] = uint64_t{5}; }), base::Error);
}

TEST(GgufMetadata, YarnHasItsMagnitude) {
  File file("qwen2");
  file.metadata["qwen2.rope.scaling.type"] = std::string("yarn");
  file.metadata["qwen2.rope.scaling.factor"] = 4.0;
  file.metadata["qwen2.rope.scaling.original_context_length"] = uint64_t{16};
  const layers::RopeSpec rope = *attention(file.read()).rope;
  EXPECT_EQ(rope.scaling, layers::RopeSpec::Scaling::yarn);
  EXPECT_EQ(rope.original_context, 16);
  EXPECT_NEAR(*rope.attention_factor, 0.1 * std::log(4.0) + 1, 1e-12);
}

TEST(GgufMetadata, RefusalsNameTheKey) {
  const auto refused = [](const std::string& key, const checkpoint::MetaValue& value) {
    File file("qwen2");
    file.metadata["qwen2." + key] = value;
    const std::string message = file.refusal();
    EXPECT_NE(message.find(key), std::string::npos) << key << ": \"" << message << "\"";
  };
  refused("rope.scaling.type", std::string("longrope"));
  refused("expert_count", uint64_t{4});
  refused("attn_logit_softcapping", 30.0);
  refused("attention.causal", false);
  refused("attention.sliding_window", uint64_t{9});
  refused("embedding_length", std::string("32"));
  refused("expert_group_count", uint64_t{4});
  refused("attention.head_count_kv", std::vector<uint64_t>{2, 2, 2});
  File unknown("qwen2");
  unknown.metadata["qwen2.my_own"] = uint64_t{1};
  EXPECT_EQ(unknown.read().warnings.size(), 1u);
  EXPECT_NE(unknown.refusal(true).find("my_own"), std::string::npos);
  EXPECT_NE(File("grok").refusal().find("qwen3moe"), std::string::npos);
  File silent("llama");
  silent.metadata.erase("general.architecture");
  EXPECT_NE(silent.refusal().find("general.architecture"), std::string::npos);
  File no_blocks("llama");
  no_blocks.metadata.erase("llama.block_count");
  EXPECT_NE(no_blocks.refusal().find("block_count"), std::string::npos);
}

TEST(GgufMetadata, LayersMayDiffer) {
  File file("llama");
  file.metadata["llama.attention.head_count_kv"] = std::vector<uint64_t>{1, 4};
  EXPECT_EQ(attention(file.read(), 0).kv_heads, 1);
  EXPECT_EQ(attention(file.read(), 1).kv_heads, 4);
}

TEST(GgufMetadata, Vocabulary) {
  File file("llama");
  const auto read = [&] {
    const auto source = checkpoint::memory_source(file.tensors, file.metadata, checkpoint::Format::gguf, "model.gguf");
    return gguf_vocabulary(*source);
  };
  EXPECT_FALSE(read());
  file.metadata["tokenizer.ggml.model"] = std::string("gpt2");
  file.metadata["tokenizer.ggml.tokens"] = std::vector<std::string>{"a", "b"};
  file.metadata["tokenizer.ggml.token_type"] = std::vector<int64_t>{1, 3};
  file.metadata["tokenizer.ggml.eos_token_id"] = uint64_t{1};
  file.metadata["tokenizer.ggml.padding_token_id"] = uint64_t{0xffffffff};
  file.metadata["tokenizer.ggml.add_bos_token"] = false;
  ASSERT_TRUE(read());
  EXPECT_EQ(read()->tokens.size(), 2u);
  EXPECT_EQ(read()->token_type[1], 3);
  EXPECT_EQ(*read()->eos, 1);
  EXPECT_FALSE(read()->padding);
  EXPECT_FALSE(*read()->add_bos);
  file.metadata["tokenizer.ggml.tokens"] = uint64_t{7};
  EXPECT_THROW(read(), base::Error);
}

}  // namespace
}  // namespace coterie::families
