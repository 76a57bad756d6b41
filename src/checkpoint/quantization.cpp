#include "checkpoint/quantization.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace coterie::checkpoint {

using base::ErrorKind;
using base::Json;
using base::JsonReader;

namespace {

/// A key whose value must be one of those that are honoured.
void expect(JsonReader& keys, std::string_view key, const std::vector<std::string>& honoured) {
  if (!keys.has(key)) return keys.inert({key});
  std::string found = keys.string(key);
  std::transform(found.begin(), found.end(), found.begin(), [](unsigned char c) { return std::tolower(c); });
  if (std::find(honoured.begin(), honoured.end(), found) == honoured.end())
    base::fail(ErrorKind::unsupported, keys.where(), "{} is \"{}\": expected {}", key, found,
               fmt::join(honoured, " or "));
}

/// One whose value must be null, false, or empty.
void expect_none(JsonReader& keys, std::string_view key) {
  const Json* value = keys.value(key);
  const bool none = !value || value->is_null() || (value->is_boolean() && !value->get<bool>()) ||
                    ((value->is_object() || value->is_array()) && value->empty());
  if (!none) base::fail(ErrorKind::unsupported, keys.where(), "{} is {}, which is not honoured", key, value->dump());
}

void refuse_unread(const JsonReader& keys) {
  const std::vector<std::string> unread = keys.unread();
  if (!unread.empty()) base::fail(ErrorKind::unsupported, keys.where(), "key \"{}\" is not honoured", unread.front());
}

int bits_of(JsonReader& keys, std::string_view key, std::initializer_list<int> honoured) {
  const int64_t bits = keys.integer(key);
  if (std::find(honoured.begin(), honoured.end(), bits) == honoured.end())
    base::fail(ErrorKind::unsupported, keys.where(), "{} is {}: expected {}", key, bits, fmt::join(honoured, " or "));
  return static_cast<int>(bits);
}

/// -1 is a scale a row.
int64_t group_of(JsonReader& keys, int64_t otherwise) {
  const int64_t group = keys.integer("group_size", otherwise);
  if (group != -1 && (group <= 0 || group % 32 != 0))
    base::fail(ErrorKind::unsupported, keys.where(), "group_size is {}: expected a multiple of 32, or -1", group);
  return group == -1 ? 0 : group;
}

Quantization read_fp8(JsonReader& keys) {
  Quantization result{.method = Quantization::Method::fp8, .bits = 8, .floats = true};
  expect(keys, "activation_scheme", {"dynamic"});
  expect(keys, "fmt", {"e4m3", "float8_e4m3fn"});
  expect(keys, "scale_fmt", {"float", "ue8m0"});
  expect(keys, "expert_dtype", {"fp8"});
  expect_none(keys, "kv_cache_scheme");
  if (keys.has("weight_block_size")) {
    const std::vector<int64_t> block = keys.integers("weight_block_size");
    if (block.size() != 2 || block[0] < 1 || block[1] < 1 || block[1] % 64 != 0)
      base::fail(ErrorKind::unsupported, keys.where(),
                 "weight_block_size is [{}]: expected two numbers, the second a "
                 "multiple of 64",
                 fmt::join(block, ", "));
    result.block_rows = block[0], result.block_cols = block[1];
  }
  // Which matrices are quantised, the files say themselves: those that have scales.
  keys.inert({"weight_block_size", "modules_to_not_convert", "ignored_layers", "modules_to_convert", "dequantize"});
  return result;
}

Quantization read_gptq(JsonReader& keys) {
  Quantization result{.method = Quantization::Method::gptq};
  result.bits = bits_of(keys, "bits", {4, 8});
  result.group = group_of(keys, 128);
  expect(keys, "pack_dtype", {"int32"});
  const char* const format = keys.has("checkpoint_format") ? "checkpoint_format" : "format";
  expect(keys, format, {"gptq", "gptq_v2"});
  result.zeros_less_one = !keys.has(format) || keys.string(format) != "gptq_v2";
  if (const Json* dynamic = keys.value("dynamic"); dynamic && dynamic->is_object())
    for (const auto& [pattern, change] : dynamic->items())
      if (!pattern.starts_with("-:"))  // those are left out of it, as the files show
        base::fail(ErrorKind::unsupported, keys.where(), "dynamic changes \"{}\", which is not honoured", pattern);
  // How the codes were found; g_idx says what desc_act means.
  keys.inert({"desc_act",
              "sym",
              "damp_percent",
              "damp_auto_increment",
              "true_sequential",
              "static_groups",
              "act_group_aware",
              "model_file_base_name",
              "model_name_or_path",
              "meta",
              "tokenizer",
              "dataset",
              "lm_head",
              "checkpoint_format",
              "format",
              "model_seqlen",
              "block_name_to_quantize",
              "module_name_preceding_first_block",
              "batch_size",
              "pad_token_id",
              "max_input_length",
              "cache_block_outputs",
              "modules_in_block_to_quantize",
              "backend",
              "use_cuda_fp16",
              "use_exllama",
              "exllama_config",
              "disable_exllama",
              "mse",
              "parallel_packing",
              "is_marlin_format"});
  return result;
}

Quantization read_awq(JsonReader& keys) {
  Quantization result{.method = Quantization::Method::awq};
  result.bits = bits_of(keys, "bits", {4});
  result.group = group_of(keys, 128);
  expect(keys, keys.has("version") ? "version" : "format", {"gemm"});
  if (!keys.boolean("zero_point", true))
    base::fail(ErrorKind::unsupported, keys.where(), "zero_point is false: expected true");
  keys.inert({"version", "format", "backend", "modules_to_not_convert", "do_fuse", "modules_to_fuse",
              "fuse_max_seq_len", "exllama_config", "sym", "desc_act", "meta", "lm_head", "pack_dtype"});
  return result;
}

/// The scheme of a group's weights.
Quantization read_scheme(JsonReader& keys) {
  Quantization result{.method = Quantization::Method::compressed_tensors};
  expect(keys, "type", {"int", "float"});
  result.floats = keys.has("type") && keys.string("type") == "float";
  result.bits = result.floats ? bits_of(keys, "num_bits", {8}) : bits_of(keys, "num_bits", {4, 8});
  const std::string strategy = keys.string("strategy", keys.has("group_size") ? "group" : "tensor");
  if (strategy == "group" && !result.floats) {
    result.group = group_of(keys, 128);
  } else if (strategy == "block" && result.floats) {
    const std::vector<int64_t> block = keys.integers("block_structure");
    if (block.size() != 2 || block[0] < 1 || block[1] < 1 || block[1] % 64 != 0)
      base::fail(ErrorKind::unsupported, keys.where(),
                 "block_structure is [{}]: expected two numbers, the second a "
                 "multiple of 64",
                 fmt::join(block, ", "));
    result.block_rows = block[0], result.block_cols = block[1];
  } else if (strategy != "channel" && strategy != "tensor") {
    base::fail(ErrorKind::unsupported, keys.where(), "strategy is \"{}\": expected {}", strategy,
               result.floats ? "block, channel or tensor" : "group, channel or tensor");
  }
  if (keys.boolean("dynamic", false))
    base::fail(ErrorKind::unsupported, keys.where(), "dynamic is true: weights have scales of their own");
  expect(keys, "actorder", {"group", "weight", "static", "dynamic"});
  keys.inert({"symmetric", "observer", "observer_kwargs", "group_size", "block_structure", "actorder", "scale_dtype",
              "zp_dtype"});
  refuse_unread(keys);
  return result;
}

Quantization read_compressed(JsonReader& keys) {
  expect(keys, "format", {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"});
  expect(keys, "quantization_status", {"compressed", "frozen"});
  for (const char* key : {"kv_cache_scheme", "transform_config"}) expect_none(keys, key);
  if (const Json* sparsity = keys.value("sparsity_config"); sparsity && sparsity->is_object() && !sparsity->empty())
    if (const std::string format = sparsity->value("format", "dense"); format != "dense")
      base::fail(ErrorKind::unsupported, keys.where(), "sparsity_config has format \"{}\": expected dense", format);
  keys.inert({"ignore", "global_compression_ratio", "version", "kv_cache_scheme", "transform_config"});
  const Json* groups = keys.object("config_groups");
  if (!groups || groups->empty()) base::fail(ErrorKind::unsupported, keys.where(), "config_groups is missing or empty");
  std::optional<Quantization> result;
  for (const auto& [name, group] : groups->items()) {
    const std::string where = keys.where() + ": " + name;
    JsonReader of_group(group, where);
    const Json* weights = of_group.object("weights");
    if (!weights) base::fail(ErrorKind::unsupported, where, "weights is missing");
    JsonReader of_weights(*weights, where + ": weights");
    const Quantization scheme = read_scheme(of_weights);
    // Activations that are quantised on the way are not here: what is read are the weights.
    if (const Json* activations = of_group.object("input_activations"))
      if (!activations->value("dynamic", Json(false)).is_boolean() || !activations->value("dynamic", false))
        base::fail(ErrorKind::unsupported, where, "input_activations have fixed scales (dynamic is not true)");
    expect_none(of_group, "output_activations");
    expect(of_group, "format", {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"});
    of_group.inert({"targets"});
    refuse_unread(of_group);
    const auto same = [&](const Quantization& other) {
      return other.bits == scheme.bits && other.floats == scheme.floats && other.group == scheme.group &&
             other.block_rows == scheme.block_rows && other.block_cols == scheme.block_cols;
    };
    if (result && !same(*result))
      base::fail(ErrorKind::unsupported, where, "another scheme than the group before: expected one for all weights");
    result = scheme;
  }
  return *result;
}

}  // namespace

std::optional<Quantization> read_quantization(const Json& config, const std::string& where) {
  if (!config.is_object()) return {};
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_object()) continue;
    JsonReader keys(*found, where + ": " + key);
    const std::string method = keys.string("quant_method", "");
    std::optional<Quantization> result;
    if (method == "fp8") result = read_fp8(keys);
    if (method == "gptq") result = read_gptq(keys);
    if (method == "awq") result = read_awq(keys);
    if (method == "compressed-tensors") result = read_compressed(keys);
    if (!result) continue;
    refuse_unread(keys);
    return result;
  }
  // Some multimodal models have it where their text model is described.
  for (const char* key : {"text_config", "thinker_config"})
    if (const auto found = config.find(key); found != config.end())
      if (auto result = read_quantization(*found, where)) return result;
  return {};
}

}  // namespace coterie::checkpoint
