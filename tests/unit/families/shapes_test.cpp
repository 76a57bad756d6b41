#include "families/shapes.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "checkpoint/tensor_sink.h"
#include "families/family.h"
#include "families/open.h"
#include "families/random_model.h"
#include "models/account.h"

namespace coterie::families {
namespace {

TEST(Shapes, AnUnknownOneIsRefusedWithTheList) {
  try {
    shape("gpt-5");
    FAIL();
  } catch (const base::Error& error) {
    EXPECT_NE(std::string(error.what()).find("qwen3-30b-a3b"), std::string::npos) << error.what();
  }
}

TEST(Shapes, LayersCanBeChosen) {
  EXPECT_EQ(shape("qwen3-30b-a3b").blocks.size(), 48u);
  EXPECT_EQ(shape("qwen3-30b-a3b", 3).blocks.size(), 3u);
}

// What is drawn is a complete GGUF model: read back, it is the same model, tensor for tensor.
TEST(Shapes, RandomModelsReadBackAsTheShape) {
  for (const char* name : {"smollm2-135m", "olmoe-1b-7b"}) {
    const ModelSpec spec = shape(name, 1);
    RandomModel random = random_model(spec, tensor::DType::q4_0, name);
    for (checkpoint::RandomTensor& t : random.tensors) {
      const bool router = t.name.find("ffn_gate_inp") != std::string::npos;
      if (router || t.shape.size() == 3) {
        EXPECT_EQ(t.dtype, router ? tensor::DType::f32 : tensor::DType::q4_0) << t.name;
      }
    }
    const Model model = open_model(checkpoint::random_source(random.tensors, random.metadata, 1));
    EXPECT_TRUE(model.warnings.empty()) << model.warnings.front();
    EXPECT_EQ(model.name, name);
    EXPECT_FALSE(model.tokenizer);
    EXPECT_FALSE(model.no_tokenizer.empty());
    const models::Account wanted = account(spec), found = account(model.decoder->spec());
    EXPECT_EQ(found.held, wanted.held) << name;
    EXPECT_EQ(found.active, wanted.active) << name;
  }
}

// 576 is no multiple of 256: the k-quants fall back as llama.cpp's do.
TEST(Shapes, RowsThatFitNoBlockFallBack) {
  for (const checkpoint::RandomTensor& t : random_model(shape("smollm2-135m", 1), tensor::DType::q4_k, "x").tensors) {
    if (t.name == "blk.0.attn_q.weight") {
      EXPECT_EQ(t.dtype, tensor::DType::q5_0);
    } else if (t.name == "blk.0.ffn_down.weight") {
      EXPECT_EQ(t.dtype, tensor::DType::q4_k);
    } else if (t.name == "blk.0.attn_norm.weight") {
      EXPECT_EQ(t.offset, 1.0f);
    }
  }
}

TEST(Shapes, AFormatThatIsNoWeightIsRefused) {
  EXPECT_THROW(random_model(shape("smollm2-135m", 1), tensor::DType::i32, "x"), base::Error);
}

}  // namespace
}  // namespace coterie::families
