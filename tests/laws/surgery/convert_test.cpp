#include "surgery/convert.h"

#include <algorithm>
#include <fstream>

#include "checkpoint/tensor_sink.h"
#include "laws/models/bench.h"
#include "models/families/family.h"
#include "quant/codec.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "text/tokenizer_training.h"

// A converted model is the model; what GGUF cannot say is refused.
namespace coterie::laws {
namespace {

using base::ErrorKind;
using base::Json;

/// The tiny configs have their family's switches on. Those that GGUF cannot say, by the word that is refused, and what
/// takes them away (null: the key).
struct Unsaid {
  std::string word;
  Json without;
};
const std::map<std::string, Unsaid>& unsaid() {
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
      {"mamba2", {"limits of the time step", {{"time_step_limit", nullptr}}}},
      {"dots1", {"sliding window", {{"sliding_window", nullptr}, {"max_window_layers", nullptr}}}},
  };
  return all;
}

Json without(Json config, const Json& changes) {
  for (const auto& [key, value] : changes.items())
    if (value.is_null())
      config.erase(key);
    else
      config[key] = value;
  return config;
}

/// A folder of a tiny model, opened.
struct Saved {
  explicit Saved(const Json& config) {
    const models::ModelSpec spec = models::read_config(config, "tiny", true);
    std::vector<checkpoint::TensorToWrite> tensors;
    const std::vector<checkpoint::MemoryTensor> drawn = tiny::weights(spec, 1);
    for (const checkpoint::MemoryTensor& t : drawn)
      tensors.push_back({t.name, t.dtype, t.shape, [&t](const auto& write) { write(t.bytes); }});
    folder.write("config.json", config.dump());
    checkpoint::write_safetensors(folder / "model.safetensors", tensors);
    model = models::open_model(folder.path());
  }
  surgery::Converted convert(const surgery::ConvertOptions& options = {}) const {
    return surgery::convert(model, folder / "out.gguf", options);
  }
  models::Model converted() const {
    models::OpenOptions strict;
    strict.strict = true;
    return models::open_model(folder / "out.gguf", strict);
  }
  TempFolder folder;
  models::Model model;
};

class Convert : public Law {};

TEST_P(Convert, IsTheSameModel) {
  const std::string& family = GetParam().family;
  Json config = tiny::configs().at(family);
  if (const auto found = unsaid().find(family); found != unsaid().end()) {
    const Saved refused(config);
    expect_error(ErrorKind::unsupported, {found->second.word}, [&] { refused.convert(); });
    EXPECT_FALSE(std::filesystem::exists(refused.folder / "out.gguf"));
    config = without(config, found->second.without);
  }
  const Saved saved(config);
  saved.convert();
  const models::Model converted = saved.converted();
  Runner before(GetParam(), *saved.model.decoder), after(GetParam(), *converted.decoder);
  const std::vector<int32_t> ids = some_ids(21, converted.decoder->spec().vocabulary, 1);
  const std::vector<float> a = before.whole(ids), b = after.whole(ids);
  expect_close(b, a, 1e-5, "after converting");
  const int64_t v = converted.decoder->spec().vocabulary;
  for (int64_t row = 0; row < 21; ++row) {
    const auto best = [&](const std::vector<float>& logits) {
      const auto first = logits.begin() + row * v;
      return std::max_element(first, first + v) - first;
    };
    EXPECT_EQ(best(a), best(b)) << row;
  }
}

std::vector<Case> convertible() {
  std::vector<Case> all = cases();
  std::erase_if(all, [](const Case& c) {
    return c.isa != "scalar" || c.precision != ops::Precision::f32 ||
           models::family_of_model_type(c.family, "law").architecture.empty();
  });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, Convert, testing::ValuesIn(convertible()), name_of);

TEST(ConvertFormats, EachMatrixIsRoundedAsTheFormatRoundsAndSmallThingsStayF32) {
  const Saved saved(tiny::configs().at("mixtral"));
  const surgery::Converted said =
      saved.convert({.to = tensor::DType::q4_0, .places = {{layers::Place::experts, tensor::DType::q8_0}}});
  const auto gguf = checkpoint::open_gguf(saved.folder / "out.gguf");
  int64_t values = 0;
  for (const auto& [dtype, count] : said.values) values += count;
  EXPECT_EQ(said.tensors, std::ssize(gguf->tensors()));
  int64_t in_file = 0;
  for (const checkpoint::TensorInfo& t : gguf->tensors()) in_file += tensor::element_count(t.shape);
  EXPECT_EQ(values, in_file);
  const auto dtype_of = [&](const std::string& name) { return gguf->find(name)->dtype; };
  EXPECT_EQ(dtype_of("blk.0.attn_v.weight"), tensor::DType::q4_0);
  EXPECT_EQ(dtype_of("blk.0.ffn_down_exps.weight"), tensor::DType::q8_0);
  EXPECT_EQ(dtype_of("blk.0.ffn_gate_inp.weight"), tensor::DType::f32);
  EXPECT_EQ(dtype_of("blk.0.attn_norm.weight"), tensor::DType::f32);
  EXPECT_EQ(dtype_of("output.weight"), tensor::DType::q8_0);  // q6_k, which rows of 32 do not hold

  std::vector<std::byte> expected;
  for (int e = 0; e < 6; ++e) {
    const checkpoint::TensorInfo* t =
        saved.model.source->find("model.layers.1.block_sparse_moe.experts." + std::to_string(e) + ".w1.weight");
    ASSERT_NE(t, nullptr);
    const auto* floats = reinterpret_cast<const float*>(t->bytes.data());
    std::vector<std::byte> row(static_cast<size_t>(tensor::row_bytes(tensor::DType::q8_0, 32)));
    for (int64_t r = 0; r < t->shape[0]; ++r) {
      quant::encode(tensor::DType::q8_0, floats + r * 32, row.data(), 32);
      expected.insert(expected.end(), row.begin(), row.end());
    }
  }
  const std::span<const std::byte> found = gguf->find("blk.1.ffn_gate_exps.weight")->bytes;
  EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.begin(), expected.end()));
}

TEST(ConvertFormats, AnyThreadsGiveTheSameFile) {
  const Saved saved(tiny::configs().at("qwen3_moe"));
  const auto file_of = [&](int threads) {
    saved.convert({.to = tensor::DType::q5_0, .threads = threads});
    std::ifstream file(saved.folder / "out.gguf", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(file_of(1), file_of(3));
}

TEST(ConvertRefuses, WhatCannotBeWritten) {
  const Saved saved(tiny::configs().at("mixtral"));
  using tensor::DType;
  expect_error(ErrorKind::unsupported, {"router", "8 bits"}, [&] {
    saved.convert({.places = {{layers::Place::router, DType::q4_0}}});
  });
  expect_error(ErrorKind::bad_input, {"--to", "i32"}, [&] { saved.convert({.to = DType::i32}); });
  expect_error(ErrorKind::bad_input, {".gguf"}, [&] { surgery::convert(saved.model, saved.folder / "out.bin", {}); });
  expect_error(ErrorKind::io, {"nowhere"},
               [&] { surgery::convert(saved.model, saved.folder / "nowhere" / "out.gguf", {}); });
  saved.convert();
  expect_error(ErrorKind::bad_input, {"GGUF file already"}, [&] { surgery::convert(saved.converted(), "x.gguf", {}); });
  const Saved zamba(tiny::configs().at("zamba"));
  expect_error(ErrorKind::unsupported, {"no architecture for zamba"}, [&] { zamba.convert(); });
  Json gelu = tiny::configs().at("qwen3");
  gelu["hidden_act"] = "gelu";
  expect_error(ErrorKind::unsupported, {"activation of the FFN"}, [&] { Saved(gelu).convert(); });
}

// A disk that is full (/dev/full) leaves nothing that looks like a model.
TEST(ConvertRefuses, AFullDisk) {
  const Saved saved(tiny::configs().at("mixtral"));
  std::filesystem::create_symlink("/dev/full", saved.folder / "full.gguf");
  expect_error(ErrorKind::io, {"written"}, [&] { surgery::convert(saved.model, saved.folder / "full.gguf", {}); });
}

struct Vocabulary {
  explicit Vocabulary(text::TokenizerRecipe::Kind kind, int64_t tokens)
      : saved(without(tiny::configs().at("qwen3"), {{"vocab_size", tokens}})) {
    const std::string words =
        "The quick brown fox's tail, 12 345 times: naïve café.\n\n\tIt isn't über; THE END of the tale of the fox.\n";
    std::string text;
    for (int i = 0; i < 20; ++i) text += words;
    text::TokenizerRecipe recipe{kind, tokens, 2, {"<|endoftext|>"}};
    const std::string_view views[] = {text};
    text::write_tokenizer(recipe, text::train_tokenizer(recipe, views), saved.folder.path());
    const models::Model model = models::open_model(saved.folder.path());
    notes = surgery::convert(model, saved.folder / "out.gguf", {}).notes;
    const models::Model converted = saved.converted();
    for (const std::string& part : {words, std::string("  fox <|endoftext|>\n\n the  "), std::string()})
      EXPECT_EQ(converted.tokenizer->encode(part), model.tokenizer->encode(part)) << part;
    EXPECT_EQ(converted.tokenizer->end_tokens(), model.tokenizer->end_tokens());
  }
  Saved saved;
  std::vector<std::string> notes;
};

TEST(ConvertTokenizer, OfOurOwnTrainerGivesTheSameTokens) {
  const Vocabulary bpe(text::TokenizerRecipe::Kind::bpe, 300);
  EXPECT_TRUE(bpe.notes.empty()) << bpe.notes.front();
  const auto gguf = checkpoint::open_gguf(bpe.saved.folder / "out.gguf");
  EXPECT_EQ(std::get<std::string>(gguf->metadata().at("tokenizer.ggml.pre")), "gpt-2");
  EXPECT_EQ(std::get<std::vector<std::string>>(gguf->metadata().at("tokenizer.ggml.tokens")).size(), 300);
  // Those that GGUF has no words for go along whole.
  EXPECT_EQ(Vocabulary(text::TokenizerRecipe::Kind::characters, 300).notes.size(), 1);
  EXPECT_EQ(Vocabulary(text::TokenizerRecipe::Kind::bytes, 300).notes.size(), 1);
}

}  // namespace
}  // namespace coterie::laws
