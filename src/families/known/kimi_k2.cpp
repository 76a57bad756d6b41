#include "families/known/deepseek.h"
#include "families/known/families.h"

// Kimi K2 (Moonshot AI 2025, arXiv:2507.20534) is DeepSeek-V3 under a model_type of its own; Kimi K2.5 and K2.6 are its
// text model beside an image encoder.
namespace coterie::families {

namespace {

constexpr Multimodal kMultimodal[] = {{.model_type = "kimi_k25", .tied = true}};

}  // namespace

const Family kKimiK2 = {
    .model_type = "kimi_k2",
    .architecture = "deepseek2",
    .class_name = "DeepseekV3ForCausalLM",
    .from_config = deepseek::v3_from_config,
    .from_gguf = deepseek::latent_from_gguf,
    .hugging_face_names = deepseek::latent_names,
    .to_gguf = deepseek::experts_to_gguf,
    .fit_to_tensors = deepseek::find_sparse_layers,
    .says = deepseek::has_experts,
    .multimodal = kMultimodal,
};

}  // namespace coterie::families
