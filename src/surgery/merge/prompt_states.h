#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "families/open.h"
#include "layers/observer.h"
#include "ops/context.h"

namespace coterie::surgery {

/// A text as a sequence of its own.
struct Prompt {
  std::vector<int32_t> ids;
  int64_t skipped = 0;  // tokens that begin every text
};
/// Throws bad_input for a prompt without tokens or longer than the context, and for a model without a tokenizer.
std::vector<Prompt> prompt_tokens(const families::Model& model, std::span<const std::string> prompts,
                                  std::string_view where);

/// Runs prompts, several at once as sequences of their own, with an observer. `begin` is told of those of a step before
/// it, `with_logits`, where there is one, gets the logits of all their tokens after it.
using OnPrompts = std::function<void(std::span<const Prompt> prompts)>;
using OnLogits = std::function<void(std::span<const Prompt> prompts, tensor::ConstMatrix logits)>;
void read_prompts(ops::Context& context, const models::Decoder& decoder, std::span<const Prompt> prompts,
                  layers::Observer* observer, const OnPrompts& begin, const OnLogits& with_logits = {});

/// What of a prompt stands for it.
enum class StateOf { all_tokens, last_token };

/// For each layer the mean state [D] that its FFN, and a router in its place, reads on these prompts: what comes out of
/// the norm before the FFN. The mean is over the tokens of a prompt (all of them but the token that begins every text,
/// which says nothing about it; or the last), then over prompts. Prompts are evaluated as sequences of their own, so no
/// padding takes part.
///
/// Throws bad_input for a prompt without tokens or longer than the context, and for a model without a tokenizer.
std::vector<std::vector<double>> prompt_states(ops::Context& context, const families::Model& model,
                                               std::span<const std::string> prompts, StateOf state,
                                               std::string_view where);

/// The mean of the prompts' token embeddings, [D].
std::vector<double> prompt_embedding(const families::Model& model, std::span<const std::string> prompts,
                                     std::string_view where);

/// The share of each expert, [E], in the choices that a model's routers make on the prompts' tokens, all
/// layers together.
std::vector<double> prompt_routing(ops::Context& context, const families::Model& model,
                                   std::span<const std::string> prompts, int64_t experts, std::string_view where);

}  // namespace coterie::surgery
