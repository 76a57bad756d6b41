#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <numeric>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/tensor_source.h"
#include "families/prediction.h"
#include "kernels/table.h"
#include "models/parameters.h"
#include "support/temp_folder.h"
#include "train/trainer.h"

// A head for multi-token prediction is trained with its model, resumed to the bit, written under the published names
// and tuned alone.
namespace coterie::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDeepSeek = R"(
model:
  config: {model_type: deepseek_v3, hidden_size: 16, intermediate_size: 24, moe_intermediate_size: 8,
           num_hidden_layers: 2, first_k_dense_replace: 1, num_attention_heads: 2, num_key_value_heads: 2,
           n_routed_experts: 4, num_experts_per_tok: 2, n_shared_experts: 1, n_group: 1, topk_group: 1,
           q_lora_rank: 8, kv_lora_rank: 8, qk_nope_head_dim: 8, qk_rope_head_dim: 4, v_head_dim: 8,
           routed_scaling_factor: 1.0, norm_topk_prob: true, rms_norm_eps: 1e-6, rope_theta: 10000.0,
           max_position_embeddings: 16, num_nextn_predict_layers: 1}
tokenizer: {kind: bytes}
data: {files: text.txt, validation: 0.2}
training: {sequence: 8, batch: 4, micro_batch: 2, steps: 12, learning_rate: 1e-2, clip: 1, dropout: 0.1,
           prediction_loss: 0.3}
balance: {bias_rate: 0.001, loss: 0.001}
evaluation: {every: 6}
checkpoint: {every: 5}
)";

constexpr const char* kQwen = R"(
model:
  config: {model_type: qwen3_5_moe_text, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, head_dim: 8, num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 8,
           shared_expert_intermediate_size: 8, linear_num_key_heads: 2, linear_num_value_heads: 2,
           linear_key_head_dim: 8, linear_value_head_dim: 8, linear_conv_kernel_dim: 4,
           layer_types: [linear_attention, full_attention], max_position_embeddings: 16, mtp_num_hidden_layers: 1}
tokenizer: {kind: bytes}
data: {files: text.txt, validation: 0.2}
training: {sequence: 8, batch: 4, micro_batch: 2, steps: 12, learning_rate: 1e-2, prediction_loss: 0.3}
)";

std::string changed(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

class PredictionTraining : public testing::Test {
 protected:
  PredictionTraining() {
    std::string text;
    for (int i = 0; i < 600; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 23);
    folder.write("text.txt", text);
  }

  bool train(const std::string& recipe, const std::string& run, bool resume = false, int64_t stop_after = 0,
             const fs::path& tuned = {}) {
    folder.write("tiny.yaml", recipe);
    threads::Pool pool(2);
    std::atomic<bool> stop = false;
    events.clear();
    TrainerListener listener;
    listener.event = [&](const base::Json& event) {
      events.push_back(event);
      if (event["kind"] == "step" && event["step"] == stop_after) stop = true;
    };
    RecipeChoice choice;
    choice.tuned = tuned;
    Trainer trainer(read_recipe(folder / "tiny.yaml", choice), {folder / run, resume, 0}, pool, kernels::select(),
                    listener);
    return trainer.run(stop);
  }
  std::vector<double> of_events(const std::string& kind, const std::string& field) const {
    std::vector<double> values;
    for (const base::Json& event : events)
      if (event["kind"] == kind) values.push_back(event.at(field));
    return values;
  }
  std::string message_of(const std::string& recipe, const fs::path& tuned = {}) {
    try {
      train(recipe, "refused", false, 0, tuned);
    } catch (const base::Error& error) {
      return error.message() + " | " + error.hint();
    }
    return "no error";
  }
  fs::path checkpoint(const std::string& run, int64_t step = 12) const {
    return folder / run / "checkpoints" / fmt::format("step-{:07}", step);
  }

  TempFolder folder;
  std::vector<base::Json> events;
};

TEST_F(PredictionTraining, BothLossesFallAndTheHeadIsReadFromItsPublishedNames) {
  ASSERT_TRUE(train(changed(changed(kDeepSeek, "steps: 12", "steps: 60"), "dropout: 0.1", "dropout: 0"), "run"));
  const std::vector<double> losses = of_events("step", "prediction_loss"),
                            after = of_events("evaluation", "prediction");
  ASSERT_EQ(losses.size(), 60U);
  EXPECT_NEAR(losses.front(), std::log(256), 0.2);
  EXPECT_LT(losses.back(), 3.8);
  EXPECT_LT(after.back(), after.front() - 1);
  // Layer 2, the head's, has its balance, too.
  for (const base::Json& event : events)
    if (event["kind"] == "routers") {
      EXPECT_EQ(event["load"].size(), 2U);
    }
  const fs::path written = checkpoint("run", 60);
  const auto source = checkpoint::open_safetensors(written / "model.safetensors");
  for (const char* name :
       {"eh_proj.weight", "enorm.weight", "hnorm.weight", "shared_head.norm.weight", "mlp.experts.3.down_proj.weight",
        "mlp.gate.e_score_correction_bias", "self_attn.kv_b_proj.weight", "input_layernorm.weight"})
    EXPECT_NE(source->find("model.layers.2." + std::string(name)), nullptr) << name;
  const families::Model model = families::open_model(written);
  const families::Model head = families::open_prediction_head(model);
  EXPECT_TRUE(head.decoder->spec().prediction.has_value());
}

TEST_F(PredictionTraining, ResumedIsUninterruptedToTheBit) {
  for (const std::string recipe : {kDeepSeek, kQwen}) {
    const std::string one = recipe == kQwen ? "q1" : "d1", two = recipe == kQwen ? "q2" : "d2";
    ASSERT_TRUE(train(recipe, one));
    ASSERT_FALSE(train(recipe, two, false, 3));
    ASSERT_TRUE(train(recipe, two, true));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      EXPECT_TRUE(base::read_text(checkpoint(one) / file) == base::read_text(checkpoint(two) / file)) << file;
  }
  const auto source = checkpoint::open_safetensors(checkpoint("q1") / "model.safetensors");
  for (const char* name :
       {"mtp.fc.weight", "mtp.norm.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.pre_fc_norm_embedding.weight",
        "mtp.layers.0.self_attn.q_proj.weight", "mtp.layers.0.mlp.gate.weight"})
    EXPECT_NE(source->find(name), nullptr) << name;
}

TEST_F(PredictionTraining, AHeadIsTunedAloneAndItsModelStaysAsItIs) {
  ASSERT_TRUE(train(kDeepSeek, "made"));
  constexpr const char* kTune = R"(
tune: {full: [prediction]}
data: {files: text.txt, validation: 0.2}
training: {sequence: 8, batch: 4, steps: 40, learning_rate: 1e-2, prediction_loss: 1}
)";
  ASSERT_TRUE(train(kTune, "tuned", false, 0, checkpoint("made")));
  const std::vector<double> losses = of_events("step", "prediction_loss"), of_model = of_events("evaluation", "train");
  ASSERT_EQ(losses.size(), 40U);
  const auto sum = [&](size_t from) {
    return std::accumulate(losses.begin() + static_cast<std::ptrdiff_t>(from),
                           losses.begin() + static_cast<std::ptrdiff_t>(from) + 10, 0.0);
  };
  EXPECT_LT(sum(30), sum(0) - 1);
  EXPECT_EQ(of_model.front(), of_model.back());
  const auto before = checkpoint::open_safetensors(checkpoint("made") / "model.safetensors"),
             after = checkpoint::open_safetensors(checkpoint("tuned", 40) / "model.safetensors");
  ASSERT_EQ(before->tensors().size(), after->tensors().size());
  for (const checkpoint::TensorInfo& tensor : before->tensors()) {
    const checkpoint::TensorInfo* const now = after->find(tensor.name);
    ASSERT_NE(now, nullptr) << tensor.name;
    const bool same = std::equal(tensor.bytes.begin(), tensor.bytes.end(), now->bytes.begin(), now->bytes.end());
    const bool of_head = tensor.name.starts_with("model.layers.2."), bias = tensor.name.ends_with("correction_bias");
    if (!bias) {
      EXPECT_EQ(same, !of_head) << tensor.name;
    }
  }
}

TEST_F(PredictionTraining, WhatCannotBeIsRefused) {
  EXPECT_NE(message_of(changed(kDeepSeek, "num_nextn_predict_layers: 1", "num_nextn_predict_layers: 0"))
                .find("num_nextn_predict_layers"),
            std::string::npos);
  ASSERT_TRUE(train(changed(kDeepSeek, ",\n           prediction_loss: 0.3", ""), "without"));
  EXPECT_NE(message_of("tune: {full: all}\ndata: {files: text.txt}\ntraining: {sequence: 8, batch: 4, steps: 1, "
                       "learning_rate: 1e-2, prediction_loss: 1}",
                       checkpoint("without"))
                .find("holds no head"),
            std::string::npos);
  EXPECT_NE(message_of("tune: {lora: {targets: [attention]}}\ndata: {files: text.txt}\ntraining: {sequence: 8, "
                       "batch: 4, steps: 1, learning_rate: 1e-2, prediction_loss: 1}",
                       checkpoint("without"))
                .find("adapter"),
            std::string::npos);
}

}  // namespace
}  // namespace coterie::train
