#pragma once

#include "serve/api/fields.h"
#include "serve/api/model.h"
#include "serve/request.h"

namespace coterie::serve {

// What a request may ask for at most, as OpenAI's API has it: choices, and alternatives of each token.
inline constexpr int64_t kMostChoices = 128, kMostAlternatives = 20;

/// A request without its prompt, with what the model's server has for fields that are not given. A seed that is not
/// given is drawn.
Request default_request(const ServedModel& model);

/// The fields of OpenAI's API, of vLLM's and of llama.cpp's that say how tokens are chosen, when an answer ends and how
/// it is scheduled. `max_tokens` is what an answer may have when the request does not say.
void read_sampling(Fields& fields, const ServedModel& model, Request& request);
/// The first of these fields that is there; the others may not differ from it.
std::optional<int64_t> read_max_tokens(Fields& fields, std::initializer_list<std::string_view> names);
/// n copies whose seeds follow each other: choice i answers as a request with seed + i does alone.
std::vector<Request> copies(const Request& request, int64_t n);

/// What is said of fields that OpenAI's and Anthropic's clients send and that cannot change an answer here.
void accept_inert(Fields& fields);
std::span<const std::string_view> inert_fields();

}  // namespace coterie::serve
