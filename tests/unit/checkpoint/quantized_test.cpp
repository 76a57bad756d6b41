#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/json.h"
#include "checkpoint/quantized_source.h"
#include "quant/codec.h"
#include "quant/rows.h"
#include "support/expect_error.h"
#include "support/places.h"
#include "support/temp_folder.h"

// Matrices in the order of every published method, made by tests/parity/make/quantised.py from the definitions, and the
// values that the methods' references make of them.
namespace coterie {
namespace {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;
using tensor::DType;

const fs::path kFolder = tests::source_folder() + "/unit/checkpoint/quantised";

std::vector<std::string> methods() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFolder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<checkpoint::TensorSource> open(const fs::path& folder) {
  return checkpoint::open_source(checkpoint::resolve_model(folder));
}

class Quantized : public testing::TestWithParam<std::string> {};

TEST_P(Quantized, EqualsTheReferenceToTheBit) {
  const auto source = open(kFolder / GetParam());
  ASSERT_EQ(source->tensors().size(), 2) << "what a matrix is made of shows";
  const checkpoint::TensorInfo* info = source->find("layer.weight");
  ASSERT_NE(info, nullptr);
  EXPECT_TRUE(info->bytes.empty()) << "no weight is read by opening";
  EXPECT_NE(source->file_of(*info).find("model.safetensors"), std::string::npos);
  const auto reference = checkpoint::open_safetensors(kFolder / GetParam() / "expected.safetensors");
  const checkpoint::TensorInfo& expected = *reference->find("layer.weight");
  ASSERT_EQ(info->shape, expected.shape);
  const std::span<const std::byte> bytes = source->load(*info);
  EXPECT_EQ(source->load(*info).data(), bytes.data()) << "put together once";
  const int64_t rows = info->shape[0], cols = info->shape[1];
  ASSERT_EQ(std::ssize(bytes), rows * tensor::row_bytes(info->dtype, cols));
  std::vector<float> values(static_cast<size_t>(rows * cols)), wanted(values.size());
  std::memcpy(wanted.data(), expected.bytes.data(), expected.bytes.size());
  tensor::Weight weight(bytes.data(), info->dtype, rows, cols);
  weight.columns = info->columns;
  for (int64_t r = 0; r < rows; ++r) quant::decode_row(weight, r, values.data() + r * cols);
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(wanted[i])) << "value " << i;
}

TEST_P(Quantized, IsHeldInTheFilesSize) {
  const auto source = open(kFolder / GetParam());
  const auto files = checkpoint::open_safetensors(kFolder / GetParam());
  const checkpoint::TensorInfo& info = *source->find("layer.weight");
  EXPECT_EQ(info.columns != nullptr, GetParam().ends_with("act-order"));
  if (GetParam() == "gptq-uneven") {  // groups of different lengths: as floats
    EXPECT_EQ(info.dtype, DType::f16);
    return;
  }
  EXPECT_TRUE(quant::is_scaled(info.dtype)) << tensor::name(info.dtype);
  int64_t stored = 0;
  for (const checkpoint::TensorInfo& tensor : files->tensors())
    if (tensor.name.starts_with("layer.") && !tensor.name.ends_with("g_idx")) stored += std::ssize(tensor.bytes);
  EXPECT_LE(static_cast<double>(source->load(info).size()), 1.1 * static_cast<double>(stored));
}

INSTANTIATE_TEST_SUITE_P(Methods, Quantized, testing::ValuesIn(methods()), [](const auto& each) {
  std::string name = each.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

/// The folder of a method with its quantization_config changed.
void expect_refused(const std::string& method, const Json& change, ErrorKind kind,
                    std::initializer_list<std::string_view> words) {
  SCOPED_TRACE(change.dump());
  const TempFolder folder;
  fs::copy(kFolder / method / "model.safetensors", folder / "model.safetensors");
  Json config = base::read_json(kFolder / method / "config.json");
  config["quantization_config"].merge_patch(change);
  folder.write("config.json", config.dump());
  expect_error(kind, words, [&] { open(folder.path()); });
}

TEST(QuantizedConfig, EveryKeyThatIsNotHonouredIsRefusedByName) {
  const ErrorKind unsupported = ErrorKind::unsupported;
  expect_refused("fp8", {{"activation_scheme", "static"}}, unsupported, {"activation_scheme", "static"});
  expect_refused("fp8", {{"fmt", "e5m2"}}, unsupported, {"fmt", "e5m2"});
  expect_refused("fp8", {{"weight_block_size", {128, 32}}}, unsupported, {"weight_block_size", "32"});
  expect_refused("fp8", {{"new_key", 1}}, unsupported, {"new_key"});
  expect_refused("gptq", {{"bits", 3}}, unsupported, {"bits", "3"});
  expect_refused("gptq", {{"group_size", 16}}, unsupported, {"group_size", "16"});
  expect_refused("gptq", {{"checkpoint_format", "marlin"}}, unsupported, {"checkpoint_format", "marlin"});
  expect_refused("gptq", {{"dynamic", {{"+:.*down.*", {{"bits", 8}}}}}}, unsupported, {"dynamic", "down"});
  expect_refused("awq", {{"version", "gemv"}}, unsupported, {"version", "gemv"});
  expect_refused("awq", {{"zero_point", false}}, unsupported, {"zero_point"});
  expect_refused("compressed-4", {{"format", "nvfp4-pack-quantized"}}, unsupported, {"format", "nvfp4"});
  expect_refused("compressed-4", {{"kv_cache_scheme", {{"num_bits", 8}}}}, unsupported, {"kv_cache_scheme"});
  expect_refused("compressed-4", {{"sparsity_config", {{"format", "sparse-24-bitmask"}}}}, unsupported,
                 {"sparsity_config", "sparse-24"});
  expect_refused("compressed-4", {{"config_groups", {{"group_0", {{"weights", {{"strategy", "tensor_group"}}}}}}}},
                 unsupported, {"strategy", "tensor_group"});
  expect_refused("compressed-4", {{"config_groups", {{"group_0", {{"input_activations", {{"dynamic", false}}}}}}}},
                 unsupported, {"input_activations"});
}

TEST(QuantizedConfig, ShapesThatDisagreeAreRefusedWithTheTensor) {
  expect_refused("gptq", {{"group_size", 32}}, ErrorKind::bad_input, {"layer.scales", "[2, 40]", "[4, 40]"});
  expect_refused("gptq", {{"bits", 8}}, ErrorKind::bad_input, {"layer."});
  expect_refused("fp8", {{"weight_block_size", {64, 64}}}, ErrorKind::bad_input,
                 {"weight_scale_inv", "[2, 2]", "[1, 2]"});
  expect_refused("compressed-4", {{"config_groups", {{"group_0", {{"weights", {{"group_size", 64}}}}}}}},
                 ErrorKind::bad_input, {"layer.weight_scale", "[40, 4]", "[40, 2]"});
}

TEST(QuantizedConfig, OtherMethodsAreLeftToOthers) {
  EXPECT_FALSE(checkpoint::read_quantization(Json::object(), "config.json"));
  EXPECT_FALSE(checkpoint::read_quantization({{"quantization_config", {{"quant_method", "mxfp4"}}}}, "config.json"));
  EXPECT_FALSE(checkpoint::read_quantization({{"quantization_config", nullptr}}, "config.json"));
}

}  // namespace
}  // namespace coterie
