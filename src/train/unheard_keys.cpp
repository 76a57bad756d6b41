#include "train/unheard_keys.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

namespace coterie::train {

namespace {

std::optional<double> number(const base::Json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number()) return {};
  return found->get<double>();
}

}  // namespace

std::vector<std::string> unheard_keys(const base::Json& config, const Recipe& recipe) {
  std::vector<std::string> sentences;
  const auto say = [&](const char* key, double value, const char* instead) {
    sentences.push_back(
        fmt::format("{} is {:g} in the model's config and has no effect on training here; {}", key, value, instead));
  };
  for (const char* key : {"attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "emb_pdrop"})
    if (const auto value = number(config, key); value && *value != 0)
      say(key, *value, "training: dropout of the recipe is of what mixers and FFNs give");
  for (const char* key : {"router_aux_loss_coef", "aux_loss_alpha"})
    if (const auto value = number(config, key); value && *value != 0)
      say(key, *value, "balance: loss of the recipe is the weight of the balance loss");
  if (const auto value = number(config, "initializer_range"); value && !recipe.tune) {
    const bool kaiming = recipe.init.kind == models::InitialWeights::Kind::kaiming;
    if (kaiming || std::abs(*value - recipe.init.std) > 1e-9)
      say("initializer_range", *value, "model: init and init_std of the recipe say how weights are drawn");
  }
  return sentences;
}

}  // namespace coterie::train
