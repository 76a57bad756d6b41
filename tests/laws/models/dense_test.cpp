#include <cstring>

#include "families/family.h"
#include "laws/models/bench.h"

// A MoE with one expert is the dense FFN; identical experts are one.
namespace coterie::laws {
namespace {

using checkpoint::MemoryTensor;
using Tensors = std::vector<MemoryTensor>;

class Dense : public Law {
 protected:
  // The sparse families beside the dense one with the same attention.
  static std::string dense_counterpart(const std::string& family) {
    if (family == "mixtral") return "mistral";
    if (family == "qwen3_moe") return "qwen3";
    return "";
  }
};

base::Json dense_config(const std::string& family) {
  base::Json json = tiny::configs().at(family);
  if (family == "mistral") json["rope_theta"] = 1e6, json["rms_norm_eps"] = 1e-5;
  return json;
}

base::Json sparse_config(const std::string& sparse, const base::Json& dense, int64_t experts, int64_t chosen) {
  base::Json json = dense;
  json["model_type"] = sparse;
  json["num_experts"] = experts, json["num_experts_per_tok"] = chosen;
  if (sparse == "qwen3_moe") json["moe_intermediate_size"] = json["intermediate_size"], json["norm_topk_prob"] = true;
  return json;
}

/// The dense model's FFN as every expert, a router of zeros or of random rows.
Tensors upcycle(const std::string& sparse, const models::ModelSpec& dense, Tensors tensors, int64_t experts) {
  const bool mixtral = sparse == "mixtral";
  for (size_t layer = 0; layer < dense.blocks.size(); ++layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    const std::string block = p + (mixtral ? "block_sparse_moe." : "mlp.");
    for (const auto& [from, to] : {std::pair{"gate_proj", "w1"}, {"up_proj", "w3"}, {"down_proj", "w2"}}) {
      const std::string name = p + "mlp." + from + ".weight";
      const MemoryTensor ffn = tiny::find(tensors, name);
      std::erase_if(tensors, [&](const MemoryTensor& t) { return t.name == name; });
      for (int64_t e = 0; e < experts; ++e) {
        tensors.push_back(ffn);
        tensors.back().name = block + "experts." + std::to_string(e) + "." + (mixtral ? to : from) + ".weight";
      }
    }
    MemoryTensor router{block + "gate.weight", tensor::DType::f32, {experts, dense.width}, {}};
    router.bytes.resize(static_cast<size_t>(experts * dense.width) * 4);
    for (size_t i = 0; i < router.bytes.size() / 4; ++i) {
      const float value = static_cast<float>((i * 37) % 11) - 5;
      std::memcpy(router.bytes.data() + 4 * i, &value, 4);
    }
    tensors.push_back(std::move(router));
  }
  return tensors;
}

TEST_P(Dense, OneExpertEqualsTheDenseFfn) {
  const Case& c = GetParam();
  const models::ModelSpec dense = families::read_config(dense_config(dense_counterpart(c.family)), "dense", true);
  const models::ModelSpec sparse =
      families::read_config(sparse_config(c.family, dense_config(dense_counterpart(c.family)), 1, 1), "sparse", true);
  const Tensors weights = tiny::weights(dense, 1), upcycled = upcycle(c.family, dense, weights, 1);
  const auto bind = [&](const models::ModelSpec& spec, const Tensors& tensors) {
    return c.precision == ops::Precision::fast ? quantised(spec, tensors, tensor::DType::q8_0)
                                               : tiny::bind(spec, tensors);
  };
  const tiny::Model a = bind(dense, weights), b = bind(sparse, upcycled);
  Runner run_a(c, *a.decoder), run_b(c, *b.decoder);
  const std::vector<int32_t> ids = some_ids(29, dense.vocabulary, 1);
  expect_same_bits(run_b.whole(ids), run_a.whole(ids), "one expert and dense");
}

TEST_P(Dense, IdenticalExpertsAreOne) {
  const Case& c = GetParam();
  const models::ModelSpec dense = families::read_config(dense_config(dense_counterpart(c.family)), "dense", true);
  const models::ModelSpec sparse =
      families::read_config(sparse_config(c.family, dense_config(dense_counterpart(c.family)), 6, 3), "sparse", true);
  if (c.precision == ops::Precision::fast) return;  // a law of real numbers: see the f32 case
  const tiny::Model a = tiny::bind(dense, tiny::weights(dense, 1));
  const tiny::Model b = tiny::bind(sparse, upcycle(c.family, dense, tiny::weights(dense, 1), 6));
  Runner run_a(c, *a.decoder), run_b(c, *b.decoder);
  const std::vector<int32_t> ids = some_ids(29, dense.vocabulary, 1);
  expect_close(run_b.whole(ids), run_a.whole(ids), 1e-5, "upcycled and its parent");
}

std::vector<Case> sparse_cases() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) { return c.family != "mixtral" && c.family != "qwen3_moe"; });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, Dense, testing::ValuesIn(sparse_cases()), name_of);

}  // namespace
}  // namespace coterie::laws
