#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/yaml.h"
#include "laws/models/bench.h"
#include "laws/surgery/dense_families.h"
#include "quant/codec.h"
#include "surgery/merge/merge_models.h"
#include "text/tokenizer_training.h"

// Tiny models with one tokenizer, and merges of them.
namespace coterie::laws {

inline void write_bytes_tokenizer(const std::filesystem::path& folder, const std::string& end = "<|endoftext|>") {
  text::TokenizerRecipe recipe;
  recipe.kind = text::TokenizerRecipe::Kind::bytes;
  recipe.vocabulary = 257;
  recipe.special = {end};
  const std::string_view views[] = {"some text"};
  text::write_tokenizer(recipe, text::train_tokenizer(recipe, views), folder);
}

inline base::Json tiny_of(const std::string& family, const base::Json& changes = base::Json::object()) {
  return with(with(tiny::configs().at(family), {{"vocab_size", 257}}), changes);
}

/// Folders a, b, c … of tiny models with the tokenizer of bytes, and merges of them.
struct Models {
  void add(const std::string& name, const base::Json& config, uint64_t seed = 1) {
    save_tiny(config, folder / name, seed);
    write_bytes_tokenizer(folder / name);
  }
  surgery::Merged merge(const std::string& yaml, const std::string& out = "out", surgery::MergeOptions options = {}) {
    const std::filesystem::path path = folder.write("recipe.yaml", yaml);
    const base::Json recipe = base::read_yaml(path);
    ops::Context context{pool, kernels::by_name("scalar"), arena, ops::Precision::f32};
    surgery::MergeSources sources(path);
    options.tokens = 40;
    if (surgery::is_moe_recipe(recipe))
      return surgery::merge_experts(context, surgery::read_moe_recipe(recipe, path), sources, folder / out, options);
    return surgery::merge_models(context, surgery::read_merge_recipe(recipe, path), sources, folder / out, options);
  }
  families::Model open(const std::string& name) { return families::open_model(folder / name); }
  std::vector<float> values(const std::string& name, const std::string& tensor) {
    const auto source = checkpoint::open_source(checkpoint::resolve_model(folder / name));
    const checkpoint::TensorInfo* info = source->find(tensor);
    EXPECT_NE(info, nullptr) << tensor;
    std::vector<float> result(static_cast<size_t>(tensor::element_count(info->shape)));
    quant::decode(info->dtype, info->bytes.data(), result.data(), std::ssize(result));
    return result;
  }
  bool nothing_was_left() const {
    for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(folder.path()))
      if (const std::string name = entry.path().filename(); name.starts_with("out")) return false;
    return true;
  }
  TempFolder folder;
  threads::Pool pool{2};
  tensor::Arena arena;
};

inline std::string models_of(const std::string& method, const std::string& rest,
                             const std::string& parameters = "{weight: 1}") {
  return fmt::format(
      "merge_method: {}\nmodels:\n  - {{model: b, parameters: {}}}\n  - {{model: c, parameters: {}}}\n{}", method,
      parameters, parameters, rest);
}

struct Three : Models {
  explicit Three(const std::string& family = "qwen3") {
    add("a", tiny_of(family)), add("b", tiny_of(family), 2), add("c", tiny_of(family), 3);
  }
  void expect_same(const std::string& one, const std::string& other) {
    const auto x = checkpoint::open_source(checkpoint::resolve_model(folder / one));
    for (const checkpoint::TensorInfo& t : x->tensors())
      EXPECT_EQ(values(one, t.name), values(other, t.name)) << t.name;
  }
  void expect_near(const std::string& one, const std::string& other) {
    const auto x = checkpoint::open_source(checkpoint::resolve_model(folder / one));
    for (const checkpoint::TensorInfo& t : x->tensors()) {
      const std::vector<float> a = values(one, t.name), b = values(other, t.name);
      for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << t.name;
    }
  }
};

}  // namespace coterie::laws
