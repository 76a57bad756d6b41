#include "surgery/quantize/importance.h"

#include <cmath>

#include "families/gguf/gguf_metadata.h"
#include "laws/surgery/saved.h"

// Calibration: what is counted, and that counts add up.
namespace coterie::laws {
namespace {

using surgery::Importance;

struct Calibration {
  explicit Calibration(const std::string& family)
      : model(tiny::make(family)),
        run({family, "scalar"}, *model.decoder),
        counter(*model.decoder, families::gguf_architecture(model.decoder->spec())) {
    run.observer = &counter;
  }
  void read(uint64_t seed, int64_t tokens) { run.whole(some_ids(tokens, model.decoder->spec().vocabulary, seed)); }
  const Importance& counted() { return counter.counted(); }

  tiny::Model model;
  Runner run;
  surgery::ImportanceCounter counter;
};

void expect_near(const Importance& a, const Importance& b, double tolerance) {
  ASSERT_EQ(a.entries.size(), b.entries.size());
  for (const auto& [name, entry] : a.entries) {
    const Importance::Entry& other = b.entries.at(name);
    EXPECT_EQ(entry.rows, other.rows) << name;
    ASSERT_EQ(entry.square_sums.size(), other.square_sums.size()) << name;
    for (size_t i = 0; i < entry.square_sums.size(); ++i)
      EXPECT_NEAR(entry.square_sums[i], other.square_sums[i], tolerance * entry.square_sums[i]) << name << " " << i;
  }
}

TEST(ImportanceOf, RowsAreTokensAndThoseOfExpertsAreChoices) {
  Calibration mixtral("mixtral");  // 2 of 6 experts
  mixtral.read(1, 40);
  for (const auto& [name, entry] : mixtral.counted().entries) {
    int64_t rows = 0;
    for (const int64_t of_item : entry.rows) rows += of_item;
    EXPECT_EQ(rows, name.find("_exps") == std::string::npos ? 40 : 80) << name;
    EXPECT_EQ(entry.items, name.find("_exps") == std::string::npos ? 1 : 6) << name;
    EXPECT_TRUE(name.starts_with("blk.")) << name;
    for (int64_t e = 0; e < entry.items; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < entry.cols(); ++c) sum += entry.square_sums[static_cast<size_t>(e * entry.cols() + c)];
      EXPECT_EQ(sum > 0, entry.rows[static_cast<size_t>(e)] > 0) << name << " " << e;
    }
  }
  const auto& entries = mixtral.counted().entries;
  // What is multiplied with the same rows has the same sums; a router is not rounded, so not counted.
  for (const char* other : {"attn_k", "attn_v"})
    EXPECT_EQ(entries.at("blk.0.attn_q.weight").square_sums,
              entries.at(std::string("blk.0.") + other + ".weight").square_sums);
  EXPECT_EQ(entries.at("blk.1.ffn_gate_exps.weight").square_sums, entries.at("blk.1.ffn_up_exps.weight").square_sums);
  EXPECT_FALSE(entries.contains("blk.0.ffn_gate_inp.weight"));
  EXPECT_FALSE(entries.contains("token_embd.weight"));
}

// The RMS norm with weights w gives rows of a known sum of squares: Σ_c (x_c / w_c)² = D for each row, up to eps.
TEST(ImportanceOf, SumsAreOfWhatTheMatrixReads) {
  Calibration llama("llama");
  llama.read(3, 25);
  const auto& entry = llama.counted().entries.at("blk.0.attn_q.weight");
  const checkpoint::TensorInfo* norm = llama.model.source->find("model.layers.0.input_layernorm.weight");
  const auto* w = reinterpret_cast<const float*>(norm->bytes.data());
  double sum = 0;
  for (int64_t c = 0; c < entry.cols(); ++c)
    sum += entry.square_sums[static_cast<size_t>(c)] / (static_cast<double>(w[c]) * static_cast<double>(w[c]));
  EXPECT_NEAR(sum, 25.0 * static_cast<double>(entry.cols()), 1e-3 * sum);
}

class ImportanceAddsUp : public Law {};

// In memory both sides are sums of the same squares in f64, in another order; a file rounds each sum to f32 once.
TEST_P(ImportanceAddsUp, SeveralTextsAreOneRunOnAll) {
  const std::string& family = GetParam().family;
  Calibration first(family), second(family), both(family);
  first.read(1, 30), second.read(2, 17);
  both.read(1, 30), both.read(2, 17);
  Importance sum = first.counted();
  sum.add(second.counted());
  expect_near(both.counted(), sum, 1e-13);

  TempFolder folder;
  surgery::write_importance(first.counted(), folder / "first.gguf");
  surgery::write_importance(second.counted(), folder / "second.gguf");
  Importance read = surgery::read_importance(folder / "first.gguf");
  read.add(surgery::read_importance(folder / "second.gguf"));
  expect_near(both.counted(), read, std::ldexp(1.0, -23));
}

std::vector<Case> with_gguf() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) {
    return c.isa != "scalar" || c.precision != ops::Precision::f32 ||
           families::family_of_model_type(c.family, "law").architecture.empty();
  });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, ImportanceAddsUp, testing::ValuesIn(with_gguf()), name_of);

TEST(ImportanceOf, ObservingChangesNoBit) {
  for (const char* family : {"mixtral", "deepseek_v3", "gpt_oss"}) {
    Calibration seen(family);
    const std::vector<int32_t> ids = some_ids(30, seen.model.decoder->spec().vocabulary, 1);
    Runner plain({family, "scalar"}, *seen.model.decoder);
    expect_same_bits(seen.run.whole(ids), plain.whole(ids), family);
  }
}

TEST(ImportanceOf, FilesThatLieAreRefused) {
  TempFolder folder;
  const auto write = [&](const std::string& type, const std::string& name, std::vector<float> values) {
    const checkpoint::TensorToWrite tensor = {
        name, tensor::DType::f32, {std::ssize(values)}, [&values](const auto& put) {
          put(std::as_bytes(std::span(values)));
        }};
    checkpoint::write_gguf(folder / "x.gguf", {&tensor, 1}, {{"general.type", type}});
  };
  const auto read = [&] { surgery::read_importance(folder / "x.gguf"); };
  write("model", "a.in_sum2", {1});
  expect_error(ErrorKind::bad_input, {"not an importance matrix"}, read);
  write("imatrix", "a.in_sum2", {1});
  expect_error(ErrorKind::bad_input, {"a.counts"}, read);
  write("imatrix", "a.weight", {1});
  expect_error(ErrorKind::bad_input, {"in_sum2"}, read);
  write("imatrix", "a.counts", {1});
  expect_error(ErrorKind::bad_input, {"holds no tensor"}, read);
  Importance bad;
  bad.entries["a"] = {2, {1, -1}, {1, 1}};
  surgery::write_importance(bad, folder / "x.gguf");
  expect_error(ErrorKind::bad_input, {"a.in_sum2", "-1"}, read);
  Importance one, other;
  one.entries["a"] = {1, {1, 2}, {1}};
  other.entries["a"] = {2, {1, 2}, {1, 1}};
  expect_error(ErrorKind::bad_input, {"different models"}, [&] { one.add(other); });
}

}  // namespace
}  // namespace coterie::laws
