#pragma once

#include <string>

#include "base/json.h"
#include "serve/api/backend.h"
#include "serve/api/model.h"
#include "serve/api/shelf.h"

// The endpoints that need no engine: each makes its answer out of the body, the model or a snapshot.
namespace coterie::serve {

/// `created`: Unix time that is told of all of them.
base::Json models_json(const std::vector<ShelvedModel>& models, int64_t created);
base::Json model_json(const ShelvedModel& model, int64_t created);
base::Json props_json(const ServedModel& model, const SchedulerOptions& options);
base::Json slots_json(const Snapshot& snapshot, const ServedModel& model, const SchedulerOptions& options);
/// The status to answer with, too: 503 where the engine has failed, stopped, or is not heard of for far longer than a
/// step should take.
struct Health {
  int status = 200;
  base::Json json;
};
Health health_of(const Snapshot& snapshot);

// POST; throw ApiError.
base::Json tokenize_json(const base::Json& body, const ServedModel& model);
base::Json detokenize_json(const base::Json& body, const ServedModel& model);
base::Json apply_template_json(const base::Json& body, const std::string& text, const ServedModel& model);
/// Of a chat's fields, of those of /v1/responses, and of Anthropic's.
base::Json chat_tokens_json(const base::Json& body, const std::string& text, const ServedModel& model);
base::Json responses_tokens_json(const base::Json& body, const std::string& text, const ServedModel& model);
base::Json count_tokens_json(const base::Json& body, const std::string& text, const ServedModel& model);

/// The names that /metrics prints: our own, vLLM's or llama.cpp's.
enum class MetricNames { coterie, vllm, llamacpp };
/// Of the models that are loaded; where several are served, each with its name as the label "model".
std::string metrics_text(const std::vector<ShelvedModel>& models, size_t connections, MetricNames names);
/// The description of all of this, in OpenAPI 3.1.
base::Json openapi_json();

}  // namespace coterie::serve
