#include "surgery/merge/merge_adapter.h"

#include <algorithm>
#include <cmath>

#include "base/atomic_file.h"
#include "base/rng.h"
#include "checkpoint/tensor_sink.h"
#include "families/adapter/adapter.h"
#include "families/family.h"
#include "families/weights/export.h"
#include "laws/models/bench.h"
#include "quant/codec.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "surgery/write/convert.h"

// A model with an adapter merged into its weights is the model with the adapter over them, within rounding.
namespace coterie::laws {
namespace {

namespace fs = std::filesystem;
using base::ErrorKind;
using checkpoint::TensorInfo;

class MergeAdapter : public testing::TestWithParam<std::string> {
 protected:
  /// A tiny model of the family as a folder, in f32 or bf16.
  fs::path save(tensor::DType dtype) {
    const base::Json& config = tiny::configs().at(GetParam());
    const models::ModelSpec spec = families::read_config(config, "tiny", true);
    std::vector<checkpoint::MemoryTensor> tensors = tiny::weights(spec, 1);
    std::vector<std::vector<std::byte>> bytes;
    std::vector<checkpoint::TensorToWrite> written;
    for (const checkpoint::MemoryTensor& t : tensors) {
      const int64_t count = tensor::element_count(t.shape);
      const bool floats = dtype == tensor::DType::f32 || t.shape.size() < 2;
      std::vector<std::byte>& copy = bytes.emplace_back(t.bytes);
      if (!floats) {
        copy.resize(static_cast<size_t>(count) * 2);
        quant::encode(dtype, reinterpret_cast<const float*>(t.bytes.data()), copy.data(), count);
      }
      written.push_back({t.name, floats ? tensor::DType::f32 : dtype, t.shape, {}});
    }
    for (size_t i = 0; i < written.size(); ++i)
      written[i].produce = [copy = bytes[i]](const auto& write) { write(copy); };
    const fs::path path = folder / "model";
    fs::create_directories(path);
    folder.write("model/config.json", config.dump());
    checkpoint::write_safetensors(path / "model.safetensors", written, {{"format", "pt"}});
    return path;
  }
  /// A folder of an adapter over everything.
  fs::path make_adapter(const fs::path& model, bool magnitudes) {
    const families::Model opened = families::open_model(model);
    families::LoraSpec spec;
    spec.rank = 3, spec.alpha = 4, spec.dora = magnitudes;
    for (const families::AdapterModule& module : families::adapter_modules(*opened.decoder))
      if (!magnitudes || (module.stack == 0 && module.kind != families::AdapterModule::Kind::parameter))
        spec.targets.push_back(module.word());
    families::Adapter adapter = families::Adapter::fresh(*opened.decoder, spec, 1);
    base::Rng rng(3);
    for (const models::Parameter& p : adapter.parameters())
      for (int64_t i = 0; i < p.count && !p.path.ends_with("lora_a"); ++i)
        p.values[i] = p.path.ends_with("lora_b") ? 0.05f * rng.normal() : p.values[i] * (1 + 0.1f * rng.normal());
    const fs::path path = folder / (magnitudes ? "dora" : "lora");
    fs::create_directories(path);
    adapter.save(path, "tiny");
    return path;
  }
  static std::vector<float> logits(const families::Model& model) {
    Runner runner({GetParam(), std::string(kernels::select().isa)}, *model.decoder);
    return runner.whole(some_ids(19, model.decoder->spec().vocabulary, 5));
  }
  static families::Model open(const fs::path& model, const fs::path& adapter) {
    families::OpenOptions options;
    options.adapter = adapter;
    return families::open_model(model, options);
  }
  TempFolder folder;
};

TEST_P(MergeAdapter, IsTheAdaptedModel) {
  const fs::path model = save(tensor::DType::f32);
  for (const bool magnitudes : {false, true}) {
    const fs::path adapter = make_adapter(model, magnitudes), out = folder / (magnitudes ? "merged-dora" : "merged");
    const families::Model adapted = open(model, adapter);
    surgery::merge_adapter(adapted, out);
    const families::Model merged = families::open_model(out), plain = families::open_model(model);
    expect_close(logits(merged), logits(adapted), 1e-4, "merged");
    EXPECT_NE(logits(merged), logits(plain));
    // What the adapter says nothing of is there byte by byte.
    int64_t same = 0;
    for (const TensorInfo& a : plain.source->tensors()) {
      const TensorInfo* b = merged.source->find(a.name);
      ASSERT_NE(b, nullptr) << a.name;
      EXPECT_EQ(a.dtype, b->dtype);
      same += std::equal(a.bytes.begin(), a.bytes.end(), b->bytes.begin(), b->bytes.end());
    }
    EXPECT_GT(same, 0);
    expect_error(ErrorKind::bad_input, {"already exists"}, [&] { surgery::merge_adapter(adapted, out); });
  }
  const families::Model adapted = open(model, make_adapter(model, false));
  const auto count = [&] { return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()); };
  const auto before = count();
  int tensors = 0;
  expect_error(ErrorKind::interrupted, {"enough"}, [&] {
    surgery::merge_adapter(adapted, folder / "never", [&](std::string_view) {
      if (++tensors == 4) throw base::Error(ErrorKind::interrupted, "never", "enough", "");
    });
  });
  EXPECT_EQ(count(), before) << "what was interrupted left something";
  expect_error(ErrorKind::bad_input, {"never.gguf"}, [&] { surgery::merge_adapter(adapted, folder / "never.gguf"); });
  expect_error(ErrorKind::bad_input, {"no adapter"},
               [&] { surgery::merge_adapter(families::open_model(model), folder / "none"); });
}

// An adapter knows its weights by their names in transformers: it fits the same model as GGUF, whose rotary rows may
// lie elsewhere, and can be merged into it.
TEST_P(MergeAdapter, FitsTheSameModelAsGguf) {
  const fs::path model = save(tensor::DType::f32), adapter = make_adapter(model, false), gguf = folder / "model.gguf";
  surgery::convert(families::open_model(model), gguf, {.tokenizer = false});
  const families::Model one = open(model, adapter), other = open(gguf, adapter);
  expect_close(logits(other), logits(one), 1e-4, "as GGUF");
  fs::create_directories(folder / "again");
  other.adapter->save(folder / "again", "tiny");
  EXPECT_EQ(base::read_text(folder / "again" / "adapter_model.safetensors"),
            base::read_text(adapter / "adapter_model.safetensors"));
  surgery::merge_adapter(other, folder / "merged.gguf");
  expect_close(logits(families::open_model(folder / "merged.gguf")), logits(one), 1e-4, "merged as GGUF");
  if (GetParam() != "mixtral") return;
  surgery::convert(families::open_model(model), folder / "q8.gguf", {.to = tensor::DType::q8_0, .tokenizer = false});
  const families::Model blocks = open(folder / "q8.gguf", adapter);
  expect_error(ErrorKind::unsupported, {"q8_0", "`adapter`"},
               [&] { surgery::merge_adapter(blocks, folder / "never.gguf"); });
  EXPECT_FALSE(fs::exists(folder / "never.gguf"));
}

// Each merged value is the nearest bf16 to what it should be.
TEST_P(MergeAdapter, RoundsToTheFormatOfTheWeight) {
  const fs::path model = save(tensor::DType::bf16), adapter = make_adapter(model, false);
  const families::Model adapted = open(model, adapter);
  surgery::merge_adapter(adapted, folder / "merged");
  const families::Model merged = families::open_model(folder / "merged");
  for (const TensorInfo& tensor : merged.source->tensors())
    EXPECT_EQ(tensor.dtype, adapted.source->find(tensor.name)->dtype) << tensor.name;
  expect_close(logits(merged), logits(adapted), 0.1, "merged");
}

INSTANTIATE_TEST_SUITE_P(Families, MergeAdapter,
                         testing::Values("mixtral", "qwen2_moe", "llama", "phi3", "deepseek_v2"));

}  // namespace
}  // namespace coterie::laws
