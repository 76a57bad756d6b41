#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "families/family.h"
#include "families/names/merged_rows.h"
#include "families/random_model.h"
#include "laws/models/bench.h"
#include "models/network.h"

// The same values, stored in every layout of expert tensors and in GGUF, are the same model.
namespace coterie::laws {
namespace {

using checkpoint::MemoryTensor;
using Tensors = std::vector<MemoryTensor>;

struct ExpertNames {
  std::string block, gate, up, down;  // of the published per-expert tensors
  std::string in_memory = "mlp";      // the block of the stacked ones that transformers 5 holds
  bool stacks = true;                 // gate and up may come as stacks of their own
};
ExpertNames expert_names(const std::string& family) {
  if (family == "mixtral" || family == "minimax_m2") return {"block_sparse_moe", "w1", "w3", "w2"};
  if (family == "jamba") return {"feed_forward", "gate_proj", "up_proj", "down_proj", "feed_forward", false};
  // Published merged; one by one only here (split_experts).
  if (family.starts_with("granitemoe"))
    return {"block_sparse_moe", "gate_proj", "up_proj", "down_proj", "block_sparse_moe", false};
  return {"mlp", "gate_proj", "up_proj", "down_proj"};
}

const layers::MoeSpec* moe_of(const models::ModelSpec& spec, size_t layer) {
  return std::get_if<layers::MoeSpec>(&spec.blocks[layer].ffn);
}

MemoryTensor take(Tensors& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  base::require(found != tensors.end(), "layout", "no tensor is called {}: is the family in expert_names()?", name);
  MemoryTensor taken = std::move(*found);
  tensors.erase(found);
  return taken;
}

void append(std::vector<std::byte>& to, const std::vector<std::byte>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

MemoryTensor rows_of(const MemoryTensor& t, int64_t begin, int64_t end, const std::string& name) {
  MemoryTensor part{name, t.dtype, {end - begin, t.shape.back()}, {}};
  const size_t row = static_cast<size_t>(t.shape.back()) * 4;
  part.bytes.assign(t.bytes.begin() + static_cast<int64_t>(row) * begin,
                    t.bytes.begin() + static_cast<int64_t>(row) * end);
  return part;
}

// Granite's [E, 2F, D] and [E, D, F] as tensors for each expert.
Tensors split_experts(const models::ModelSpec& spec, Tensors tensors) {
  for (size_t layer = 0; layer < spec.blocks.size(); ++layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".block_sparse_moe.";
    const layers::MoeSpec* moe = moe_of(spec, layer);
    if (!moe) continue;
    const MemoryTensor in = take(tensors, p + "input_linear.weight"), out = take(tensors, p + "output_linear.weight");
    const int64_t f = moe->hidden, d = spec.width;
    for (int64_t e = 0; e < moe->router.experts; ++e) {
      const std::string expert = p + "experts." + std::to_string(e) + ".";
      tensors.push_back(rows_of(in, 2 * e * f, (2 * e + 1) * f, expert + "gate_proj.weight"));
      tensors.push_back(rows_of(in, (2 * e + 1) * f, 2 * (e + 1) * f, expert + "up_proj.weight"));
      tensors.push_back(rows_of(out, e * d, (e + 1) * d, expert + "down_proj.weight"));
    }
  }
  return tensors;
}

// Rewrites the experts of every MoE layer; `write` gets the layer and, for each expert, gate, up and down.
template <typename F>
Tensors rewrite_experts(const models::ModelSpec& spec, Tensors tensors, F write) {
  const ExpertNames names = expert_names(spec.family.model_type);
  if (spec.family.model_type.starts_with("granitemoe")) tensors = split_experts(spec, std::move(tensors));
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
  models::ModelSpec spec = families::read_config(tiny::configs().at(GetParam().family), "tiny", true);
  Tensors tensors = tiny::weights(spec, 1);
  std::vector<int32_t> ids = some_ids(23, spec.vocabulary, 1);

  std::vector<float> logits(const models::Decoder& decoder) {
    Runner runner(GetParam(), decoder);
    return runner.whole(ids);
  }
  void expect_layouts_equal();
};
class FolderLayout : public Layout {};

TEST_P(Layout, StackedAndMergedExpertsEqualSingleOnes) { expect_layouts_equal(); }
TEST_P(FolderLayout, StackedAndMergedExpertsEqualSingleOnes) { expect_layouts_equal(); }

void Layout::expect_layouts_equal() {
  const std::vector<float> expected = logits(*tiny::bind(spec, tensors).decoder);
  const ExpertNames names = expert_names(spec.family.model_type);
  const auto prefix = [](size_t layer) { return "model.layers." + std::to_string(layer) + "."; };
  const Tensors in_memory =
      rewrite_experts(spec, tensors, [&](Tensors& t, size_t layer, auto& gate, auto& up, auto& down) {
        t.push_back(merged(prefix(layer) + names.in_memory + ".experts.gate_up_proj", gate, up));
        t.push_back(stacked(prefix(layer) + names.in_memory + ".experts.down_proj", down));
      });
  expect_same_bits(logits(*tiny::bind(spec, in_memory).decoder), expected, "merged gate-up");
  if (!names.stacks) return;
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

// What a GGUF file holds of every tensor but the experts, by the two tables of names: the same values in the same
// order, gate and up of a merged pair apart, A in place of A_log.
class ToGguf : public layers::TensorReader {
 public:
  ToGguf(const std::string& family, const Tensors& from)
      : from_(from),
        theirs_(families::family_of_model_type(family, "law").hugging_face_names()),
        ours_(families::gguf_names()) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight&) override {
    add(tensor, {rows, cols});
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector&) override { add(tensor, {n}); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, const layers::Vector&) override {
    add(tensor, {rows, cols});
  }
  // Where keys and values of heads are one tensor here, the older form of GGUF has one too.
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>&) override {
    const families::NameInFile from = name(theirs_, tensor.path);
    if (from.piece != families::Piece::head_keys) return;
    const families::PathPattern path = families::path_pattern(tensor.path);
    const auto found = std::find_if(from_.begin(), from_.end(), [&](const auto& t) { return t.name == from.pattern; });
    result.push_back(*found);
    result.back().name = families::expand(ours_.find(path.pattern)->back().pattern, path.layer);
  }
  Tensors result;

 private:
  static families::NameInFile name(const families::NameTable& table, const std::string& path) {
    const families::PathPattern pattern = families::path_pattern(path);
    families::NameInFile name = table.find(pattern.pattern)->front();
    name.pattern = families::expand(name.pattern, pattern.layer, -1, pattern.item);
    return name;
  }
  void add(const Tensor& tensor, tensor::Shape shape) {
    const families::NameInFile from = name(theirs_, tensor.path), to = name(ours_, tensor.path);
    const auto found = std::find_if(from_.begin(), from_.end(), [&](const auto& t) { return t.name == from.pattern; });
    if (to.piece == families::Piece::second_half) return;  // with the first
    const int64_t rows = shape.front();
    MemoryTensor written{to.pattern, found->dtype, {}, found->bytes};
    if (to.piece == from.piece) {
      shape.front() *= families::rows_listed(to.piece);
    } else {
      const auto half = static_cast<int64_t>(found->bytes.size() / 2);
      const int64_t begin = from.piece == families::Piece::second_half ? half : 0;
      written.bytes.assign(found->bytes.begin() + begin, found->bytes.begin() + begin + half);
    }
    written.shape = families::shape_in_file(to.form, shape, tensor.parts);
    ASSERT_EQ(static_cast<size_t>(tensor::element_count(written.shape)) * 4, written.bytes.size()) << rows;
    for (size_t i = 0; to.minus_exp && i < written.bytes.size(); i += 4) {
      float value = 0;
      std::memcpy(&value, written.bytes.data() + i, 4);
      value = -std::exp(value);
      std::memcpy(written.bytes.data() + i, &value, 4);
    }
    result.push_back(std::move(written));
  }

  const Tensors& from_;
  families::NameTable theirs_, ours_;
};

TEST_P(Layout, GgufInEveryFormEqualsSafetensors) {
  const std::vector<float> expected = logits(*tiny::bind(spec, tensors).decoder);
  const families::RandomModel gguf = families::random_model(spec, tensor::DType::f32, "law");
  ToGguf renamer(spec.family.model_type, tensors);
  models::Network(spec).read(renamer);
  // The experts keep their names until a form is chosen.
  Tensors renamed = std::move(renamer.result);
  for (const MemoryTensor& t : tensors)
    if (t.name.find(".experts.") != std::string::npos || t.name.find("block_sparse_moe.input") != std::string::npos ||
        t.name.find("block_sparse_moe.output") != std::string::npos)
      renamed.push_back(t);
  const layers::AttentionSpec* attention = nullptr;
  for (const models::BlockSpec& block : spec.blocks)
    if (!attention) attention = models::attention_of(spec, block);
  const std::string architecture = std::get<std::string>(gguf.metadata.at("general.architecture"));
  const bool interleaved = architecture == "llama" || architecture.starts_with("granite");
  for (MemoryTensor& t : renamed) {
    if (interleaved && t.name.find("attn_q.") != std::string::npos) permute_rows(t, attention->heads);
    if (interleaved && t.name.find("attn_k.") != std::string::npos) permute_rows(t, attention->kv_heads);
    if (t.name.find("ffn_gate_inp_shexp") != std::string::npos) t.shape = {t.shape[1]};
  }
  if (const auto rope = attention ? attention->rope : std::nullopt;
      rope && rope->scaling == layers::RopeSpec::Scaling::llama3) {
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
    models::ModelSpec read = families::read_gguf(*source, true);
    // GGUF of these architectures has no keys for windows by layer and for limits of the time step.
    for (size_t i = 0; i < spec.blocks.size(); ++i) {
      if (const auto* one = std::get_if<layers::AttentionSpec>(&spec.blocks[i].mixer))
        std::get<layers::AttentionSpec>(read.blocks[i].mixer).window = one->window;
      if (const auto* one = std::get_if<layers::Mamba2Spec>(&spec.blocks[i].mixer)) {
        auto& mamba = std::get<layers::Mamba2Spec>(read.blocks[i].mixer);
        mamba.dt_min = one->dt_min, mamba.dt_max = one->dt_max;
      }
    }
    const auto decoder = families::bind_decoder(read, *source);
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

// Zamba and Zamba2 have one layout, and no architecture in GGUF.
// Whose GGUF holds other values than the checkpoint (1 + w of a norm), or whose experts have layouts of their own: what
// the converter writes for them is among the fixtures of tests/parity.
bool has_plain_layouts(const std::string& family) {
  for (const char* other :
       {"gemma2",       "gemma3_text",      "phi3",         "gpt_oss",     "phimoe",         "coterie",
        "qwen3_next",   "qwen3_5_moe_text", "qwen3_5_text", "kimi_linear", "bailing_hybrid", "lfm2",
        "lfm2_moe",     "nemotron_h",       "afmoe",        "laguna",      "bailing_moe_v2", "dbrx",
        "ernie4_5_moe", "granitemoe_swa",   "hy_v3",        "llama4_text", "minimax_m2",     "gemma4_text",
        "step3p5",      "deepseek_v32",     "glm_moe_dsa"})
    if (family == other) return false;
  return !families::family_of_model_type(family, "law").architecture.empty();
}

std::vector<Case> f32_cases() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) { return c.precision != ops::Precision::f32 || !has_plain_layouts(c.family); });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, Layout, testing::ValuesIn(f32_cases()), name_of);

// Those of them whose folders are plain: the experts' tensors are as in the other families.
std::vector<Case> folder_cases() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) {
    constexpr std::string_view kPlain[] = {"afmoe", "bailing_moe_v2", "deepseek_v32", "ernie4_5_moe",     "glm_moe_dsa",
                                           "hy_v3", "laguna",         "minimax_m2",   "qwen3_5_moe_text", "qwen3_next"};
    return c.precision != ops::Precision::f32 ||
           std::find(std::begin(kPlain), std::end(kPlain), c.family) == std::end(kPlain);
  });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, FolderLayout, testing::ValuesIn(folder_cases()), name_of);

}  // namespace
}  // namespace coterie::laws
