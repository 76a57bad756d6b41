#include "surgery/write/convert.h"

#include <algorithm>
#include <fstream>

#include "families/config/config_writer.h"
#include "laws/surgery/saved.h"
#include "quant/codec.h"
#include "text/tokenizer_training.h"

// A converted model is the model; what GGUF cannot say is refused.
namespace coterie::laws {
namespace {

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
  const families::Model converted = saved.converted();
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
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) {
    return c.isa != "scalar" || c.precision != ops::Precision::f32 ||
           families::family_of_model_type(c.family, "law").architecture.empty();
  });
  return all;
}
TEST(ConvertFolder, BlocksThatLayersShareAreWrittenAsTheyAre) {
  for (const char* family : {"zamba", "zamba2"}) {
    const Saved saved(tiny::configs().at(family));
    surgery::convert(saved.model, saved.folder / "again", {});
    const families::Model again = saved.converted("again");
    expect_same_tensors(*saved.model.source, *again.source);
  }
}

/// Families whose config.json can be made from a GGUF.
class ThereAndBack : public testing::TestWithParam<std::string> {};

bool has_decay(const models::ModelSpec& spec) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const models::BlockSpec& block) {
    return std::holds_alternative<layers::DeltaRuleSpec>(block.mixer) ||
           std::holds_alternative<layers::Mamba2Spec>(block.mixer);
  });
}

TEST_P(ThereAndBack, IsTheSameBytes) {
  Json config = sayable(GetParam());
  // GGUF keeps what a llama3 scaling leads to: Llama 3.1's and 3.2's are recognised.
  if (GetParam() == "llama")
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 32},
                              {"low_freq_factor", 1},
                              {"high_freq_factor", 4},
                              {"original_max_position_embeddings", 8192}};
  const Saved first(config);
  // Gemma's 1 + w takes a bit of f32's; of bf16's none.
  surgery::convert(first.model, first.folder / "bf16", {.to = tensor::DType::bf16});
  const models::ModelSpec& spec = first.model.decoder->spec();
  const bool exact_in_f32 = spec.final_norm.weight_offset == 0;
  for (const char* source : {"bf16", "."}) {
    if (!exact_in_f32 && source == std::string(".")) continue;
    TempFolder folder;
    const families::Model model = first.converted(source);
    surgery::convert(model, folder / "there.gguf", {});
    const families::Model there = families::open_model(folder / "there.gguf");
    surgery::convert(there, folder / "back", {});
    const families::Model back = families::open_model(folder / "back");
    // GGUF holds -exp(A_log), whose logarithm may be another float.
    if (has_decay(spec)) {
      const Case case_of{GetParam(), "scalar"};
      Runner before(case_of, *model.decoder), after(case_of, *back.decoder);
      const std::vector<int32_t> some = some_ids(21, spec.vocabulary, 1);
      expect_close(after.whole(some), before.whole(some), 1e-5, "after going there and back");
      continue;
    }
    expect_same_tensors(*model.source, *back.source);
    // And the other way round.
    surgery::convert(back, folder / "again.gguf", {});
    expect_same_tensors(*there.source, *checkpoint::open_gguf(folder / "again.gguf"));
    const Case f32{GetParam(), "scalar"};
    Runner a(f32, *model.decoder), b(f32, *back.decoder);
    const std::vector<int32_t> ids = some_ids(21, model.decoder->spec().vocabulary, 1);
    expect_same_bits(a.whole(ids), b.whole(ids), "logits after going there and back");
  }
}

std::vector<std::string> exported() {
  std::vector<std::string> types;
  std::string list = families::written_model_types() + ",";
  for (size_t at = 0; (at = list.find(',')) != std::string::npos; list.erase(0, at + 2))
    types.push_back(list.substr(0, at));
  return types;
}
INSTANTIATE_TEST_SUITE_P(Families, ThereAndBack, testing::ValuesIn(exported()),
                         [](const auto& each) { return each.param; });

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
  expect_error(ErrorKind::bad_input, {"convert.to", "i32"}, [&] { saved.convert({.to = DType::i32}); });
  expect_error(ErrorKind::bad_input, {".gguf"}, [&] { surgery::convert(saved.model, saved.folder / "out.bin", {}); });
  saved.folder.write("file", "");
  expect_error(ErrorKind::io, {"file"}, [&] { surgery::convert(saved.model, saved.folder / "file" / "out.gguf", {}); });
  saved.convert();
  expect_error(ErrorKind::bad_input, {"never overwritten"},
               [&] { surgery::convert(saved.converted(), saved.folder / "out.gguf", {}); });
  expect_error(ErrorKind::bad_input, {"already exists"},
               [&] { surgery::convert(saved.model, saved.folder.path(), {}); });
  expect_error(ErrorKind::unsupported, {"q8_0", "safetensors"},
               [&] { surgery::convert(saved.model, saved.folder / "folder", {.to = DType::q8_0}); });
  saved.convert({.to = DType::q8_0});
  expect_error(ErrorKind::unsupported, {"q8_0", "`convert.to` bf16"},
               [&] { surgery::convert(saved.converted(), saved.folder / "folder", {}); });
  const Saved hybrid(sayable("granitemoehybrid"));
  hybrid.convert();
  expect_error(ErrorKind::unsupported, {"no config.json", "granitehybrid", "mixtral"},
               [&] { surgery::convert(hybrid.converted(), hybrid.folder / "folder", {}); });
  EXPECT_FALSE(std::filesystem::exists(hybrid.folder / "folder"));
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
    const families::Model model = families::open_model(saved.folder.path());
    notes = surgery::convert(model, saved.folder / "out.gguf", {}).notes;
    const families::Model converted = saved.converted();
    for (const std::string& part : {words, std::string("  fox <|endoftext|>\n\n the  "), std::string()})
      EXPECT_EQ(converted.tokenizer->encode(part), model.tokenizer->encode(part)) << part;
    EXPECT_EQ(converted.tokenizer->end_tokens(), model.tokenizer->end_tokens());
    surgery::convert(converted, saved.folder / "back", {});
    const families::Model back = families::open_model(saved.folder / "back");
    for (const std::string& part : {words, std::string("  fox <|endoftext|>\n\n the  "), std::string()})
      EXPECT_EQ(back.tokenizer->encode(part), model.tokenizer->encode(part)) << part;
    EXPECT_EQ(back.tokenizer->end_tokens(), model.tokenizer->end_tokens());
    EXPECT_EQ(back.tokenizer->bos(), model.tokenizer->bos());
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
