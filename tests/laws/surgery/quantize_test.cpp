#include <algorithm>
#include <fstream>

#include "laws/surgery/saved.h"
#include "quant/codec.h"
#include "surgery/quantize/preset.h"

// Quantised models: the formats of each mixture, what importance changes, what is left alone.
namespace coterie::laws {
namespace {

using layers::Place;
using surgery::Preset;
using surgery::PresetFacts;
using surgery::Role;
using tensor::DType;

models::ModelSpec spec_of(int64_t layers, int64_t experts, int64_t heads = 8) {
  Json config = tiny::configs().at(experts ? "mixtral" : "llama");
  config["num_hidden_layers"] = layers;
  if (experts) config["num_local_experts"] = experts;
  config["num_attention_heads"] = heads, config["num_key_value_heads"] = 2, config["hidden_size"] = 8 * heads;
  config["tie_word_embeddings"] = false, config["head_dim"] = 8;
  return families::read_config(config, "tiny", false);
}

std::string formats(const char* name, const PresetFacts& facts, const std::string& part, Place place) {
  std::string all;
  for (int64_t i = 0; i < facts.layers; ++i)
    all += std::string(tensor::name(
               surgery::preset_by_name(name)->format({"blocks." + std::to_string(i) + "." + part, place}, facts))) +
           " ";
  return all;
}

// Of llama.cpp's llama-quantize, on models of these shapes.
TEST(Mixes, AreThoseOfTheirNames) {
  const PresetFacts dense(spec_of(16, 0), false);
  EXPECT_EQ(formats("q4_k_m", dense, "ffn.down", Place::dense_ffn),
            "q6_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k q6_k ");
  EXPECT_EQ(formats("Q4_K_M", dense, "attention.v", Place::mixer),
            "q6_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k q6_k ");
  const PresetFacts eight(spec_of(4, 8), true), many(spec_of(8, 6), false);
  EXPECT_EQ(formats("q4_k_s", many, "attention.v", Place::mixer), "q5_k q5_k q5_k q5_k q4_k q4_k q4_k q4_k ");
  EXPECT_EQ(formats("q4_k_s", many, "moe.experts.down", Place::experts), "q5_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k ");
  EXPECT_EQ(formats("q4_k_m", eight, "attention.k", Place::mixer), "q8_0 q8_0 q8_0 q8_0 ");
  EXPECT_EQ(formats("q4_k_m", eight, "attention.o", Place::mixer), "q5_k q5_k q5_k q5_k ");
  EXPECT_EQ(formats("iq4_xs", many, "attention.v", Place::mixer), "q5_k q5_k q5_k q5_k q5_k q5_k q5_k q5_k ");
  EXPECT_EQ(formats("mxfp4", eight, "moe.experts.up", Place::experts), "mxfp4 mxfp4 mxfp4 mxfp4 ");
  EXPECT_EQ(formats("mxfp4", eight, "attention.q", Place::mixer), "q8_0 q8_0 q8_0 q8_0 ");
  for (const Preset& mix : surgery::presets()) {
    const DType head = mix.format({"head", Place::output_embeddings}, dense);
    EXPECT_GT(tensor::bits_per_value(head), 6) << mix.name;
  }
  EXPECT_EQ(surgery::preset_by_name("q4_k_n"), nullptr);
}

/// Every tensor of a GGUF that stays in f32 whatever is asked for.
bool stays(const std::string& name) {
  return name.find("norm") != std::string::npos || name.find("gate_inp") != std::string::npos;
}

TEST(Quantize, FromAFolderAndFromItsGgufIsTheSame) {
  const Saved saved(tiny::configs().at("mixtral"));
  surgery::ConvertOptions options;
  options.preset = surgery::preset_by_name("q4_0");
  surgery::convert(saved.model, saved.folder / "direct.gguf", options);
  saved.convert();
  const surgery::Converted said = surgery::convert(saved.converted(), saved.folder / "twice.gguf", options);
  const auto direct = checkpoint::open_gguf(saved.folder / "direct.gguf"),
             twice = checkpoint::open_gguf(saved.folder / "twice.gguf");
  expect_same_tensors(*direct, *twice);
  EXPECT_EQ(std::get<uint64_t>(direct->metadata().at("general.file_type")), 2u);
  EXPECT_EQ(direct->metadata(), twice->metadata());
  for (const checkpoint::TensorInfo& t : twice->tensors()) EXPECT_EQ(t.dtype == DType::f32, stays(t.name)) << t.name;
  EXPECT_GT(said.losses.at(DType::q4_0).relative(), 0.03);
  EXPECT_LT(said.losses.at(DType::q4_0).relative(), 0.15);
  EXPECT_FALSE(said.losses.contains(DType::f32));
}

TEST(Quantize, BlocksAreRoundedAgainOnlyWhenAsked) {
  const Saved saved(tiny::configs().at("mixtral"));
  saved.convert({.to = DType::q8_0});
  surgery::ConvertOptions options;
  options.preset = surgery::preset_by_name("q4_0");
  expect_error(ErrorKind::unsupported, {"is q8_0 already", "`convert.requantize`"},
               [&] { surgery::convert(saved.converted(), saved.folder / "again.gguf", options); });
  EXPECT_FALSE(std::filesystem::exists(saved.folder / "again.gguf"));
  options.requantise = true;
  const surgery::Converted said = surgery::convert(saved.converted(), saved.folder / "again.gguf", options);
  ASSERT_EQ(said.notes.size(), 1);
  EXPECT_NE(said.notes[0].find("errors of both"), std::string::npos) << said.notes[0];
  // Without a format every byte stays.
  surgery::convert(saved.converted(), saved.folder / "copy.gguf", {});
  expect_same_tensors(*checkpoint::open_gguf(saved.folder / "out.gguf"),
                      *checkpoint::open_gguf(saved.folder / "copy.gguf"));
  // Back to floats is no rounding.
  surgery::convert(saved.converted(), saved.folder / "floats.gguf", {.to = DType::f32});
  const auto blocks = checkpoint::open_gguf(saved.folder / "out.gguf"),
             floats = checkpoint::open_gguf(saved.folder / "floats.gguf");
  const checkpoint::TensorInfo &q = *blocks->find("blk.0.attn_q.weight"), &f = *floats->find("blk.0.attn_q.weight");
  std::vector<float> row(32);
  quant::decode(DType::q8_0, q.bytes.data(), row.data(), 32);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), reinterpret_cast<const float*>(f.bytes.data())));
}

TEST(Quantize, ImportanceWeighsColumnsOfEachExpertAndUnseenOnesAreRoundedWithout) {
  const Saved saved(tiny::configs().at("mixtral"));  // 6 experts, rows of 32
  surgery::Importance importance;
  surgery::Importance::Entry& entry = importance.entries["blk.1.ffn_up_exps.weight"];
  entry.items = 6;
  for (int64_t e = 0; e < 6; ++e) {
    entry.rows.push_back(e == 4 ? 0 : 10 + e);
    for (int c = 0; c < 32; ++c) entry.square_sums.push_back(e == 4 ? 0 : c % 5 == e % 5 ? 1000.0 : 1.0 + c);
  }
  surgery::ConvertOptions options;
  options.preset = surgery::preset_by_name("q5_0");
  options.importance = &importance;
  const surgery::Converted said = saved.convert(options);
  const auto gguf = checkpoint::open_gguf(saved.folder / "out.gguf");
  const std::byte* found = gguf->find("blk.1.ffn_up_exps.weight")->bytes.data();
  std::vector<std::byte> block(22);
  for (int64_t e = 0; e < 6; ++e) {
    const checkpoint::TensorInfo* t =
        saved.model.source->find("model.layers.1.block_sparse_moe.experts." + std::to_string(e) + ".w3.weight");
    std::vector<float> weights;
    for (int c = 0; c < 32 && e != 4; ++c)
      weights.push_back(
          static_cast<float>(entry.square_sums[static_cast<size_t>(32 * e + c)] / static_cast<double>(10 + e)));
    for (int64_t r = 0; r < t->shape[0]; ++r, found += block.size()) {
      quant::encode(DType::q5_0, reinterpret_cast<const float*>(t->bytes.data()) + 32 * r, block.data(), 32, weights);
      ASSERT_TRUE(std::equal(block.begin(), block.end(), found)) << "expert " << e << ", row " << r;
    }
  }
  EXPECT_EQ(std::get<uint64_t>(gguf->metadata().at("coterie.imatrix.unseen")), 1u);
  ASSERT_EQ(said.notes.size(), 3);  // the first: there is no tokenizer
  EXPECT_NE(said.notes[1].find("expert 4 of blk.1.ffn_up_exps.weight"), std::string::npos) << said.notes[1];
  EXPECT_NE(said.notes[2].find("not in the importance matrix"), std::string::npos) << said.notes[2];
  entry.square_sums.resize(6 * 16);
  expect_error(ErrorKind::bad_input, {"blk.1.ffn_up_exps", "6 times 16"}, [&] { saved.convert(options); });
}

TEST(Quantize, WhatStopsItLeavesNothing) {
  const Saved saved(tiny::configs().at("mixtral"));
  surgery::ConvertOptions options;
  int64_t asked = 0;
  options.on_progress = [&](std::string_view, int64_t done, int64_t all) {
    EXPECT_LE(done, all);
    if (++asked == 9) throw base::Error(ErrorKind::interrupted, "here", "stopped", "");
  };
  for (const char* out : {"new.gguf", "new"}) {
    asked = 0;
    expect_error(ErrorKind::interrupted, {"stopped"},
                 [&] { surgery::convert(saved.model, saved.folder / out, options); });
  }
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(saved.folder.path()))
    left.push_back(entry.path().filename().string());
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"config.json", "model.safetensors"}));
}

}  // namespace
}  // namespace coterie::laws
