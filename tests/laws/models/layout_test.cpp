#include <algorithm>
#include <cmath>
#include <cstring>

#include "laws/models/bench.h"
#include "models/families/family.h"
#include "models/shapes.h"

// The same values, stored in every layout of expert tensors and in GGUF, are the same model.
namespace coterie::laws {
namespace {

using checkpoint::MemoryTensor;
using Tensors = std::vector<MemoryTensor>;

struct ExpertNames {
  std::string block, gate, up, down;  // of the published per-expert tensors
};
ExpertNames expert_names(const std::string& family) {
  if (family == "mixtral") return {"block_sparse_moe", "w1", "w3", "w2"};
  return {"mlp", "gate_proj", "up_proj", "down_proj"};
}

const layers::MoeSpec* moe_of(const models::ModelSpec& spec, size_t layer) {
  return std::get_if<layers::MoeSpec>(&spec.blocks[layer].ffn);
}

MemoryTensor take(Tensors& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  MemoryTensor taken = std::move(*found);
  tensors.erase(found);
  return taken;
}

void append(std::vector<std::byte>& to, const std::vector<std::byte>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// Rewrites the experts of every MoE layer; `write` gets the layer and, for each expert, gate, up and down.
template <typename F>
Tensors rewrite_experts(const models::ModelSpec& spec, Tensors tensors, F write) {
  const ExpertNames names = expert_names(spec.family);
  for (size_t layer = 0; layer < spec.blocks.size(); ++layer) {
    const layers::MoeSpec* moe = moe_of(spec, layer);
    if (!moe) continue;
    std::vector<MemoryTensor> gate, up, down;
    for (int64_t e = 0; e < moe->router.experts; ++e) {
      const std::string p =
          "model.layers." + std::to_string(layer) + "." + names.block + ".experts." + std::to_string(e) + ".";
      gate.push_back(take(tensors, p + names.gate + ".weight"));
      up.push_back(take(tensors, p + names.up + ".weight"));
      down.push_back(take(tensors, p + names.down + ".weight"));
    }
    write(tensors, layer, gate, up, down);
  }
  return tensors;
}

MemoryTensor stacked(const std::string& name, const std::vector<MemoryTensor>& experts) {
  MemoryTensor all{name, experts[0].dtype, experts[0].shape, {}};
  all.shape.insert(all.shape.begin(), static_cast<int64_t>(experts.size()));
  for (const MemoryTensor& expert : experts) append(all.bytes, expert.bytes);
  return all;
}

MemoryTensor merged(const std::string& name, const std::vector<MemoryTensor>& gate,
                    const std::vector<MemoryTensor>& up) {
  MemoryTensor all{name, gate[0].dtype, gate[0].shape, {}};
  all.shape[0] *= 2;
  all.shape.insert(all.shape.begin(), static_cast<int64_t>(gate.size()));
  for (size_t e = 0; e < gate.size(); ++e) append(all.bytes, gate[e].bytes), append(all.bytes, up[e].bytes);
  return all;
}

class Layout : public Law {
 protected:
  models::ModelSpec spec = models::read_config(tiny::configs().at(GetParam().family), "tiny", true);
  Tensors tensors = tiny::weights(spec, 1);
  std::vector<int32_t> ids = some_ids(23, spec.vocabulary, 1);

  std::vector<float> logits(const models::Decoder& decoder) {
    Runner runner(GetParam(), decoder);
    return runner.whole(ids);
  }
};

TEST_P(Layout, StackedAndMergedExpertsEqualSingleOnes) {
  const std::vector<float> expected = logits(*tiny::bind(spec, tensors).decoder);
  const ExpertNames names = expert_names(spec.family);
  const auto prefix = [](size_t layer) { return "model.layers." + std::to_string(layer) + "."; };
  const Tensors in_memory =
      rewrite_experts(spec, tensors, [&](Tensors& t, size_t layer, auto& gate, auto& up, auto& down) {
        t.push_back(merged(prefix(layer) + "mlp.experts.gate_up_proj", gate, up));
        t.push_back(stacked(prefix(layer) + "mlp.experts.down_proj", down));
      });
  expect_same_bits(logits(*tiny::bind(spec, in_memory).decoder), expected, "merged gate-up");
  const Tensors stacks =
      rewrite_experts(spec, tensors, [&](Tensors& t, size_t layer, auto& gate, auto& up, auto& down) {
        const std::string p = prefix(layer) + names.block + ".experts.";
        t.push_back(stacked(p + names.gate + ".weight", gate));
        t.push_back(stacked(p + names.up + ".weight", up));
        t.push_back(stacked(p + names.down + ".weight", down));
      });
  expect_same_bits(logits(*tiny::bind(spec, stacks).decoder), expected, "stacked");
}

// q and k rows of arch llama: pairs (i, i + dims/2) of each head become neighbours.
void permute_rows(MemoryTensor& t, int64_t heads) {
  const int64_t rows = t.shape[0], head = rows / heads;
  const size_t row = t.bytes.size() / static_cast<size_t>(rows);
  std::vector<std::byte> permuted(t.bytes.size());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t h = r / head, i = r % head;
    const int64_t to = h * head + (i < head / 2 ? 2 * i : 2 * (i - head / 2) + 1);
    std::memcpy(permuted.data() + static_cast<size_t>(to) * row, t.bytes.data() + static_cast<size_t>(r) * row, row);
  }
  t.bytes = std::move(permuted);
}

// Every name but the experts', by the two tables.
void rename(const models::ModelSpec& spec, Tensors& tensors) {
  const models::NameTable from = models::family_of_model_type(spec.family, "law").hugging_face_names();
  const models::NameTable to = models::gguf_names();
  for (MemoryTensor& t : tensors)
    for (const auto& [path, names] : from.names)
      for (int64_t layer = 0; layer < static_cast<int64_t>(spec.blocks.size()); ++layer)
        if (models::expand(names.front().pattern, layer) == t.name)
          t.name = models::expand(to.find(path)->front().pattern, layer);
}

TEST_P(Layout, GgufInEveryFormEqualsSafetensors) {
  const std::vector<float> expected = logits(*tiny::bind(spec, tensors).decoder);
  const models::RandomModel gguf = models::random_model(spec, tensor::DType::f32, "law");
  Tensors renamed = tensors;
  rename(spec, renamed);
  const std::string architecture = std::get<std::string>(gguf.metadata.at("general.architecture"));
  const bool interleaved = architecture == "llama";
  for (MemoryTensor& t : renamed) {
    const auto& attention = std::get<layers::AttentionSpec>(spec.blocks[0].mixer);
    if (interleaved && t.name.find("attn_q.") != std::string::npos) permute_rows(t, attention.heads);
    if (interleaved && t.name.find("attn_k.") != std::string::npos) permute_rows(t, attention.kv_heads);
    if (t.name.find("ffn_gate_inp_shexp") != std::string::npos) t.shape = {t.shape[1]};
  }
  if (const auto& rope = std::get<layers::AttentionSpec>(spec.blocks[0].mixer).rope;
      rope->scaling == layers::RopeSpec::Scaling::llama3) {
    const ops::RopeTable scaled = layers::rope_table(*rope);
    layers::RopeSpec plain = *rope;
    plain.scaling = layers::RopeSpec::Scaling::none;
    const ops::RopeTable unscaled = layers::rope_table(plain);
    MemoryTensor freqs{"rope_freqs.weight", tensor::DType::f32, {rope->dims / 2}, {}};
    for (size_t i = 0; i < scaled.frequency.size(); ++i) {
      const float divisor = unscaled.frequency[i] / scaled.frequency[i];
      const auto* bytes = reinterpret_cast<const std::byte*>(&divisor);
      freqs.bytes.insert(freqs.bytes.end(), bytes, bytes + 4);
    }
    renamed.push_back(freqs);
  }
  const auto check = [&](const std::string& what, auto write) {
    const Tensors form = rewrite_experts(spec, renamed, write);
    const auto source = checkpoint::memory_source(form, gguf.metadata, checkpoint::Format::gguf, what);
    models::ModelSpec read = models::read_gguf(*source, true);
    // GGUF of these architectures has no key for windows by layer.
    for (size_t i = 0; i < spec.blocks.size(); ++i)
      std::get<layers::AttentionSpec>(read.blocks[i].mixer).window =
          std::get<layers::AttentionSpec>(spec.blocks[i].mixer).window;
    const auto decoder = models::bind_decoder(read, *source);
    // Half and interleaved rotations round alike; only frequencies divided once more may differ in the last bit.
    expect_close(logits(*decoder), expected, 1e-5, what);
  };
  const auto blk = [](size_t layer) { return "blk." + std::to_string(layer) + "."; };
  check("stacks", [&](Tensors& t, size_t layer, auto& gate, auto& up, auto& down) {
    t.push_back(stacked(blk(layer) + "ffn_gate_exps.weight", gate));
    t.push_back(stacked(blk(layer) + "ffn_up_exps.weight", up));
    t.push_back(stacked(blk(layer) + "ffn_down_exps.weight", down));
  });
  check("merged", [&](Tensors& t, size_t layer, auto& gate, auto& up, auto& down) {
    t.push_back(merged(blk(layer) + "ffn_gate_up_exps.weight", gate, up));
    t.push_back(stacked(blk(layer) + "ffn_down_exps.weight", down));
  });
  check("old split", [&](Tensors& t, size_t layer, auto& gate, auto& up, auto& down) {
    for (size_t e = 0; e < gate.size(); ++e) {
      const std::string end = "." + std::to_string(e) + ".weight";
      gate[e].name = blk(layer) + "ffn_gate" + end, up[e].name = blk(layer) + "ffn_up" + end;
      down[e].name = blk(layer) + "ffn_down" + end;
      t.push_back(gate[e]), t.push_back(up[e]), t.push_back(down[e]);
    }
  });
}

std::vector<Case> f32_cases() {
  std::vector<Case> all = cases();
  std::erase_if(all, [](const Case& c) { return c.precision != ops::Precision::f32; });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, Layout, testing::ValuesIn(f32_cases()), name_of);

}  // namespace
}  // namespace coterie::laws
