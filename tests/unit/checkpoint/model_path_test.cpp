#include <gtest/gtest.h>

#include "checkpoint/tensor_source.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "unit/checkpoint/bytes.h"

namespace coterie {
namespace {

using base::ErrorKind;
using checkpoint::ModelPath;
using checkpoint::resolve_model;

std::string tiny_gguf() {
  GgufBytes file;
  file.tensor("a", {1}, 0, "aaaa");
  return file.str();
}
const std::string kTinySafetensors = safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a");

TEST(ResolveModel, AFolderOfSafetensors) {
  const TempFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", kTinySafetensors);
  const ModelPath found = resolve_model(folder.path());
  EXPECT_EQ(found.kind, ModelPath::Kind::safetensors_folder);
  EXPECT_EQ(found.path, folder.path());
  EXPECT_EQ(found.config, folder / "config.json");
  EXPECT_EQ(checkpoint::open_source(found)->tensors().size(), 1u);
}

TEST(ResolveModel, AConfigAlone) {
  const TempFolder folder;
  const auto config = folder.write("config.json", "{}");
  for (const auto& path : {folder.path(), config}) {
    const ModelPath found = resolve_model(path);
    EXPECT_EQ(found.kind, ModelPath::Kind::config_only);
    EXPECT_EQ(found.config, config);
    EXPECT_EQ(checkpoint::open_source(found), nullptr);
  }
  EXPECT_EQ(resolve_model(folder.write("qwen3.json", "{}")).kind, ModelPath::Kind::config_only);
}

TEST(ResolveModel, GgufByNameByMagicAndByFolder) {
  const TempFolder folder;
  const auto gguf = folder.write("m.gguf", tiny_gguf()), nameless = folder.write("other/blob", tiny_gguf());
  EXPECT_EQ(resolve_model(gguf).kind, ModelPath::Kind::gguf_file);
  EXPECT_EQ(resolve_model(nameless).kind, ModelPath::Kind::gguf_file);
  const ModelPath found = resolve_model(folder.path());
  EXPECT_EQ(found.kind, ModelPath::Kind::gguf_file);
  EXPECT_EQ(found.path, gguf);
  EXPECT_TRUE(found.config.empty());
  EXPECT_EQ(checkpoint::open_source(found)->tensors().size(), 1u);
  folder.write("config.json", "{}");
  EXPECT_EQ(resolve_model(folder.path()).config, folder / "config.json");
  EXPECT_EQ(resolve_model(gguf).config, folder / "config.json");
}

TEST(ResolveModel, ASplitSetIsOneModel) {
  const TempFolder folder;
  folder.write("m-00001-of-00002.gguf", tiny_gguf());
  folder.write("m-00002-of-00002.gguf", tiny_gguf());
  EXPECT_EQ(resolve_model(folder.path()).path, folder / "m-00001-of-00002.gguf");
}

TEST(ResolveModel, SaysWhatWasLookedFor) {
  const TempFolder folder;
  expect_error(ErrorKind::not_found, {"absent", "no such file", "config.json", ".gguf"},
               [&] { resolve_model(folder / "absent"); });
  expect_error(ErrorKind::not_found,
               {"no model in the folder", "config.json", "model.safetensors", "model.safetensors.index.json", "*.gguf"},
               [&] { resolve_model(folder.path()); });
  folder.write("pytorch_model.bin", "x");
  folder.write("weights.safetensors", kTinySafetensors);
  expect_error(ErrorKind::not_found, {"weights.safetensors", "pytorch_model.bin"},
               [&] { resolve_model(folder.path()); });
  folder.write("model.safetensors", kTinySafetensors);
  expect_error(ErrorKind::not_found, {"no config.json"}, [&] { resolve_model(folder.path()); });
}

TEST(ResolveModel, SeveralGgufsAreListed) {
  const TempFolder folder;
  folder.write("b.gguf", tiny_gguf());
  folder.write("a.gguf", tiny_gguf());
  expect_error(ErrorKind::bad_input, {"2 GGUF models", "a.gguf, b.gguf", "name the one"},
               [&] { resolve_model(folder.path()); });
}

TEST(ResolveModel, RefusesOtherFiles) {
  const TempFolder folder;
  expect_error(ErrorKind::bad_input, {"a.txt", "not a model"}, [&] { resolve_model(folder.write("a.txt", "hello")); });
  expect_error(ErrorKind::bad_input, {"empty", "not a model"}, [&] { resolve_model(folder.write("empty", "")); });
  expect_error(ErrorKind::bad_input, {"expected a regular file"}, [] { resolve_model("/dev/null"); });
  expect_error(ErrorKind::io, {"cannot be read"}, [] { resolve_model(std::string(5000, 'x')); });
  expect_error(ErrorKind::bad_input, {"name the folder", folder.path().string()},
               [&] { resolve_model(folder.write("model.safetensors", kTinySafetensors)); });
  expect_error(ErrorKind::bad_input, {"name the folder"},
               [&] { resolve_model(folder.write("model.safetensors.index.json", "{}")); });
}

}  // namespace
}  // namespace coterie
