#include "serve/api/openapi_requests.h"

#include <initializer_list>
#include <string_view>

#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

using base::Json;

constexpr double kMost = 2147483647;

Json nullable_type(const char* type) { return {{"type", Json::array({type, "null"})}}; }
Json flag() { return nullable_type("boolean"); }
Json text() { return nullable_type("string"); }
Json object() { return nullable_type("object"); }
Json any() { return Json::object(); }
Json whole(double least, double most) {
  return {{"type", Json::array({"integer", "null"})}, {"minimum", least}, {"maximum", most}};
}
Json number(double least, double most) {
  return {{"type", Json::array({"number", "null"})}, {"minimum", least}, {"maximum", most}};
}
Json optional_list_of(Json schema) { return {{"type", Json::array({"array", "null"})}, {"items", std::move(schema)}}; }
Json texts() { return {{"anyOf", {{{"type", "string"}}, list_of({{"type", "string"}}), {{"type", "null"}}}}}; }
Json word(std::initializer_list<const char*> words) {
  Json schema = {{"enum", Json::array({nullptr})}};
  for (const char* each : words) schema["enum"].push_back(each);
  return schema;
}

Json sampling() {
  return {{"temperature", number(0, 1000)},
          {"top_p", number(0, 1)},
          {"top_k", whole(-1, kMost)},
          {"min_p", number(0, 1)},
          {"typical_p", number(0, 1)},
          {"top_n_sigma", number(-1, 1e6)},
          {"xtc_probability", number(0, 1)},
          {"xtc_threshold", number(0, 1)},
          {"dynatemp_range", number(0, 1000)},
          {"dynatemp_exponent", number(0, 1000)},
          {"mirostat", whole(0, 2)},
          {"mirostat_tau", number(0, 1000)},
          {"mirostat_eta", number(0, 1000)},
          {"presence_penalty", number(-2, 2)},
          {"frequency_penalty", number(-2, 2)},
          {"repetition_penalty", number(1e-6, 1000)},
          {"repeat_penalty", number(1e-6, 1000)},
          {"repeat_last_n", whole(-1, kMost)},
          {"dry_multiplier", number(0, 1e6)},
          {"dry_base", number(1, 1e6)},
          {"dry_allowed_length", whole(1, kMost)},
          {"dry_penalty_last_n", whole(-1, kMost)},
          {"dry_sequence_breakers", texts()},
          {"logit_bias", {{"type", Json::array({"object", "array", "null"})}}},
          {"seed", nullable_type("integer")},
          {"stop", texts()},
          {"ignore_eos", flag()},
          {"skip_special_tokens", flag()},
          {"cache_prompt", flag()},
          {"cache_salt", text()},
          {"priority", whole(-kMost, kMost)}};
}

Json streaming() {
  return {{"stream", flag()},
          {"return_progress", flag()},
          {"timings_per_token", any()},
          {"stream_options",
           {{"type", Json::array({"object", "null"})},
            {"properties", {{"include_usage", flag()}, {"include_obfuscation", any()}}}}}};
}

// What an answer has to be.
Json format() {
  return {{"response_format", object()},   {"json_schema", any()},     {"guided_json", any()},
          {"guided_regex", text()},        {"guided_grammar", text()}, {"guided_choice", optional_list_of(text())},
          {"structured_outputs", object()}};
}

Json conversation() {
  return {{"messages", list_of(reference("Message"))},
          {"tools", optional_list_of({{"type", "object"}})},
          {"tool_choice", any()},
          {"parallel_tool_calls", flag()},
          {"reasoning_format", word({"auto", "none", "deepseek"})},
          {"reasoning_effort", text()},
          {"chat_template_kwargs", object()},
          {"documents", {{"type", Json::array({"array", "null"})}}},
          {"add_generation_prompt", flag()},
          {"continue_final_message", flag()}};
}

Json experts() {
  Json change = {{"type", Json::array({"object", "null"})},
                 {"properties",
                  {{"experts", flag()},
                   {"silence", optional_list_of({{"type", "string"}, {"pattern", "^[0-9]+:[0-9]+(,[0-9]+)*$"}})},
                   {"experts_per_token", whole(1, kMost)},
                   {"router", {{"type", Json::array({"string", "null"})}, {"pattern", "^sample:"}}}}},
                 {"additionalProperties", false}};
  change["description"] =
      "experts: choices[].coterie.routes tell what routers did with each token: experts (u16, 65535 for none), their "
      "weights (f16), [positions, layers, K], and the entropy of the router's scores (f16), [positions, layers]; "
      "little-endian, in base64; where experts are read from the disk, the bytes that the step read (disk_bytes) and "
      "its "
      "tokens (step_tokens). Of an ensemble, choices[].coterie.models has the weights of its models for each token. "
      "silence: LAYER:EXPERT that get no token of this request. experts_per_token: in place "
      "of K, no more. router: sample:T draws experts.";
  return {{"routed_experts", flag()}, {"return_routed_experts", flag()}, {"coterie", std::move(change)}};
}

Json inert() {
  Json fields = Json::object();
  for (const std::string_view name : inert_fields()) fields[std::string(name)] = any();
  fields["model"] = text();
  return fields;
}

Json prompt() {
  const Json ids = list_of({{"type", "integer"}});
  return {{"anyOf", {{{"type", "string"}}, list_of({{"type", "string"}}), ids, list_of(ids)}}};
}

/// Unknown fields are refused, unless the server is lenient.
Json request(std::initializer_list<Json> groups, Json required) {
  Json properties = Json::object();
  for (const Json& group : groups) properties.update(group);
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", std::move(required)},
          {"additionalProperties", false}};
}

Json chat() {
  return request({sampling(),
                  streaming(),
                  format(),
                  conversation(),
                  experts(),
                  inert(),
                  {{"max_tokens", whole(-1, kMost)},
                   {"max_completion_tokens", whole(-1, kMost)},
                   {"n_predict", whole(-1, kMost)},
                   {"n", whole(1, 128)},
                   {"logprobs", flag()},
                   {"top_logprobs", whole(0, 20)},
                   {"return_token_ids", flag()},
                   {"verbose", flag()},
                   {"modalities", optional_list_of({{"const", "text"}})}}},
                 {"messages"});
}

Json completion() {
  return request({sampling(),
                  streaming(),
                  format(),
                  experts(),
                  inert(),
                  {{"prompt", prompt()},
                   {"max_tokens", whole(-1, kMost)},
                   {"max_completion_tokens", whole(-1, kMost)},
                   {"n_predict", whole(-1, kMost)},
                   {"n", whole(1, 128)},
                   {"best_of", whole(1, 128)},
                   {"echo", flag()},
                   {"logprobs", whole(0, 20)},
                   {"prompt_logprobs", whole(0, 20)},
                   {"return_token_ids", flag()},
                   {"add_special_tokens", flag()}}},
                 {"prompt"});
}

Json native() {
  Json streams = streaming();
  streams.erase("stream_options");
  return request({sampling(),
                  streams,
                  format(),
                  inert(),
                  {{"prompt", any()},
                   {"n_predict", whole(-1, kMost)},
                   {"max_tokens", whole(-1, kMost)},
                   {"n_probs", whole(0, 100)},
                   {"post_sampling_probs", flag()},
                   {"return_tokens", flag()},
                   {"response_fields", texts()},
                   {"backend_sampling", any()},
                   {"n_discard", any()},
                   {"t_max_prompt_ms", any()},
                   {"image_data", any()},
                   {"speculative.n_max", any()},
                   {"speculative.n_min", any()}}},
                 {"prompt"});
}

Json responses() {
  return request({sampling(),
                  inert(),
                  {{"input", {{"anyOf", {{{"type", "string"}}, list_of({{"type", "object"}})}}}},
                   {"instructions", any()},
                   {"max_output_tokens", whole(1, kMost)},
                   {"stream", flag()},
                   {"stream_options", any()},
                   {"include", {{"type", Json::array({"array", "null"})}}},
                   {"top_logprobs", whole(0, 20)},
                   {"tools", optional_list_of({{"type", "object"}})},
                   {"tool_choice", any()},
                   {"parallel_tool_calls", flag()},
                   {"text", object()},
                   {"reasoning", object()},
                   {"chat_template_kwargs", object()}}},
                 {"input"});
}

Json of_messages() {
  return {{"messages", list_of({{"type", "object"}})},
          {"system", {{"anyOf", {{{"type", "string"}}, list_of({{"type", "object"}}), {{"type", "null"}}}}}},
          {"tools", optional_list_of({{"type", "object"}})},
          {"tool_choice", object()},
          {"thinking", object()},
          {"output_config", object()},
          {"cache_control", any()},
          {"inference_geo", any()},
          {"anthropic_version", any()},
          {"betas", any()}};
}

Json messages() {
  return request({sampling(),
                  inert(),
                  of_messages(),
                  {{"max_tokens", {{"type", "integer"}, {"minimum", 1}, {"maximum", kMost}}},
                   {"stop_sequences", texts()},
                   {"stream", flag()}}},
                 {"messages", "max_tokens"});
}

Json count() {
  Json more = Json::object();
  for (const char* name : {"max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences"})
    more[name] = any();
  return request({inert(), of_messages(), more}, {"messages"});
}

Json embedding() {
  return request({inert(),
                  {{"input", {{"anyOf", {prompt(), {{"type", "object"}}}}}},
                   {"encoding_format", word({"float", "base64"})},
                   {"dimensions", whole(1, kMost)},
                   {"pooling", word({"mean", "last"})},
                   {"normalize", flag()},
                   {"add_special_tokens", flag()}}},
                 {"input"});
}

Json tokenize() {
  return request({{{"content", {{"type", Json::array({"string", "array", "null"})}}},
                   {"prompt", {{"type", Json::array({"string", "array", "null"})}}},
                   {"add_special", flag()},
                   {"add_special_tokens", flag()},
                   {"with_pieces", flag()},
                   {"return_token_strs", flag()},
                   {"model", text()},
                   {"parse_special", any()}}},
                 Json::array());
}

Json message() {
  return {{"type", "object"},
          {"properties",
           {{"role", {{"type", "string"}, {"enum", {"system", "developer", "user", "assistant", "tool", "function"}}}},
            {"content", {{"anyOf", {{{"type", "string"}}, list_of({{"type", "object"}}), {{"type", "null"}}}}}},
            {"name", text()},
            {"tool_calls", optional_list_of({{"type", "object"}})},
            {"tool_call_id", text()},
            {"reasoning_content", text()}}},
          {"required", {"role"}}};
}

}  // namespace

Json openapi_requests() {
  return {{"Message", message()},
          {"ChatRequest", chat()},
          {"CompletionRequest", completion()},
          {"NativeRequest", native()},
          {"ResponsesRequest", responses()},
          {"MessagesRequest", messages()},
          {"CountRequest", count()},
          {"EmbeddingRequest", embedding()},
          {"TokenizeRequest", tokenize()},
          {"DetokenizeRequest",
           request({{{"tokens", list_of({{"type", "integer"}, {"minimum", 0}})}, {"model", text()}}}, {"tokens"})},
          {"TemplateRequest", request({format(), conversation(), inert()}, {"messages"})}};
}

}  // namespace coterie::serve
