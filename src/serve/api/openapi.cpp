#include "runtime/version.h"
#include "serve/api/endpoints.h"

// The description of the API for programs. Fields that are read and not listed here are refused by name when they are
// wrong, as those that are listed.
namespace coterie::serve {

namespace {

using base::Json;

Json of_type(const char* type) { return {{"type", type}}; }
Json nullable(Json schema) {
  schema["type"] = Json::array({schema["type"], "null"});
  return schema;
}
Json ranged(const char* type, double least, double most) {
  return nullable({{"type", type}, {"minimum", least}, {"maximum", most}});
}
Json list_of(Json schema) { return {{"type", "array"}, {"items", std::move(schema)}}; }
Json reference(const char* name) { return {{"$ref", std::string("#/components/schemas/") + name}}; }

Json sampling_properties() {
  return {{"temperature", ranged("number", 0, 1000)},
          {"top_p", ranged("number", 0, 1)},
          {"top_k", ranged("integer", -1, 2147483647)},
          {"min_p", ranged("number", 0, 1)},
          {"typical_p", ranged("number", 0, 1)},
          {"presence_penalty", ranged("number", -2, 2)},
          {"frequency_penalty", ranged("number", -2, 2)},
          {"repetition_penalty", ranged("number", 1e-6, 1000)},
          {"seed", nullable(of_type("integer"))},
          {"stop", {{"anyOf", Json::array({of_type("string"), list_of(of_type("string")), of_type("null")})}}},
          {"logit_bias", nullable({{"type", "object"}, {"additionalProperties", of_type("number")}})},
          {"ignore_eos", nullable(of_type("boolean"))},
          {"cache_salt", nullable(of_type("string"))},
          {"priority", nullable(of_type("integer"))},
          {"stream", nullable(of_type("boolean"))},
          {"model", nullable(of_type("string"))},
          {"user", nullable(of_type("string"))}};
}

Json object_schema(Json properties, Json required) {
  return {{"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
}

Json request(Json properties, Json required, bool sampled = true) {
  if (sampled) properties.update(sampling_properties());
  return object_schema(std::move(properties), std::move(required));
}

Json message_schema() {
  return object_schema(
      {{"role", {{"type", "string"}, {"enum", {"system", "developer", "user", "assistant", "tool", "function"}}}},
       {"content", {{"anyOf", Json::array({of_type("string"), list_of(of_type("object")), of_type("null")})}}},
       {"name", of_type("string")},
       {"tool_calls", list_of(of_type("object"))},
       {"tool_call_id", of_type("string")},
       {"reasoning_content", nullable(of_type("string"))}},
      {"role"});
}

Json prompt_schema() {
  const Json ids = list_of(of_type("integer"));
  return {{"anyOf", Json::array({of_type("string"), list_of(of_type("string")), ids, list_of(ids)})}};
}

Json usage_schema() {
  return object_schema({{"prompt_tokens", of_type("integer")},
                        {"completion_tokens", of_type("integer")},
                        {"total_tokens", of_type("integer")}},
                       {"prompt_tokens", "completion_tokens", "total_tokens"});
}

Json coterie_schema() {
  Json schema = object_schema({{"experts", of_type("boolean")},
                               {"silence", list_of({{"type", "string"}, {"pattern", "^[0-9]+:[0-9]+(,[0-9]+)*$"}})},
                               {"experts_per_token", ranged("integer", 1, 2147483647)},
                               {"router", nullable({{"type", "string"}, {"pattern", "^sample:"}})}},
                              Json::array());
  schema["description"] =
      "experts: choices[].coterie.routes tell what routers did with each token: experts (u16, 65535 for none), their "
      "weights (f16), [positions, layers, K], and the entropy of the router's scores (f16), [positions, layers]; "
      "little-endian, in base64. silence: LAYER:EXPERT that get no token of this request. experts_per_token: in place "
      "of K, no more. router: sample:T draws experts.";
  schema["additionalProperties"] = false;
  return nullable(std::move(schema));
}

Json chat_request() {
  return request({{"messages", list_of(reference("Message"))},
                  {"max_tokens", ranged("integer", -1, 2147483647)},
                  {"max_completion_tokens", ranged("integer", -1, 2147483647)},
                  {"n", ranged("integer", 1, 128)},
                  {"logprobs", nullable(of_type("boolean"))},
                  {"top_logprobs", ranged("integer", 0, 20)},
                  {"stream_options", nullable(object_schema({{"include_usage", of_type("boolean")}}, Json::array()))},
                  {"tools", nullable(list_of(of_type("object")))},
                  {"tool_choice", Json::object()},
                  {"parallel_tool_calls", nullable(of_type("boolean"))},
                  {"response_format", nullable(of_type("object"))},
                  {"reasoning_effort", nullable(of_type("string"))},
                  {"chat_template_kwargs", nullable(of_type("object"))},
                  {"return_token_ids", nullable(of_type("boolean"))},
                  {"routed_experts", nullable(of_type("boolean"))},
                  {"coterie", coterie_schema()}},
                 {"messages"});
}

Json completion_request() {
  return request({{"prompt", prompt_schema()},
                  {"max_tokens", ranged("integer", -1, 2147483647)},
                  {"n", ranged("integer", 1, 128)},
                  {"echo", nullable(of_type("boolean"))},
                  {"logprobs", ranged("integer", 0, 20)},
                  {"prompt_logprobs", ranged("integer", 0, 20)},
                  {"stream_options", nullable(object_schema({{"include_usage", of_type("boolean")}}, Json::array()))},
                  {"return_token_ids", nullable(of_type("boolean"))},
                  {"routed_experts", nullable(of_type("boolean"))},
                  {"coterie", coterie_schema()}},
                 {"prompt"});
}

Json chat_response() {
  const Json choice = object_schema(
      {{"index", of_type("integer")}, {"message", of_type("object")}, {"finish_reason", of_type("string")}},
      {"index", "message", "finish_reason"});
  return object_schema({{"id", of_type("string")},
                        {"object", {{"const", "chat.completion"}}},
                        {"created", of_type("integer")},
                        {"model", of_type("string")},
                        {"choices", list_of(choice)},
                        {"usage", reference("Usage")}},
                       {"id", "object", "created", "model", "choices", "usage"});
}

Json completion_response() {
  const Json choice =
      object_schema({{"index", of_type("integer")}, {"text", of_type("string")}, {"finish_reason", of_type("string")}},
                    {"index", "text", "finish_reason"});
  return object_schema({{"id", of_type("string")},
                        {"object", {{"const", "text_completion"}}},
                        {"created", of_type("integer")},
                        {"model", of_type("string")},
                        {"choices", list_of(choice)},
                        {"usage", reference("Usage")}},
                       {"id", "object", "created", "model", "choices", "usage"});
}

Json error_schema() {
  const Json inner = object_schema({{"message", of_type("string")},
                                    {"type", of_type("string")},
                                    {"param", nullable(of_type("string"))},
                                    {"code", nullable(of_type("string"))}},
                                   {"message", "type"});
  return object_schema({{"error", inner}}, {"error"});
}

Json content(Json schema) { return {{"application/json", {{"schema", std::move(schema)}}}}; }

Json operation(const char* summary, Json answer, const char* body = nullptr, bool streams = false) {
  Json ok = {{"description", "The answer"}, {"content", content(std::move(answer))}};
  if (streams) ok["content"]["text/event-stream"] = {{"schema", of_type("string")}};
  Json json = {
      {"summary", summary},
      {"responses",
       {{"200", std::move(ok)}, {"default", {{"description", "An error"}, {"content", content(reference("Error"))}}}}}};
  if (body) json["requestBody"] = {{"required", true}, {"content", content(reference(body))}};
  return json;
}

}  // namespace

Json openapi_json(const ServedModel& model) {
  const Json object = of_type("object");
  Json paths = {
      {"/health", {{"get", operation("Whether answers can be expected", object)}}},
      {"/v1/models", {{"get", operation("The model that is served", object)}}},
      {"/v1/chat/completions",
       {{"post", operation("Answers a conversation", reference("ChatResponse"), "ChatRequest", true)}}},
      {"/v1/completions",
       {{"post", operation("Continues texts", reference("CompletionResponse"), "CompletionRequest", true)}}},
      {"/v1/responses",
       {{"post", operation("Answers a conversation; nothing is kept", object, "ResponsesRequest", true)}}},
      {"/v1/messages",
       {{"post", operation("Answers a conversation, in Anthropic's form", object, "MessagesRequest", true)}}},
      {"/v1/messages/count_tokens", {{"post", operation("The tokens of such a conversation", object, "CountRequest")}}},
      {"/completion",
       {{"post", operation("Continues texts, in llama.cpp's form", Json::object(), "NativeRequest", true)}}},
      {"/tokenize", {{"post", operation("The token ids of a text", object, "TokenizeRequest")}}},
      {"/detokenize", {{"post", operation("The text of token ids", object, "DetokenizeRequest")}}},
      {"/apply-template", {{"post", operation("The prompt that messages become", object, "TemplateRequest")}}},
      {"/coterie/model", {{"get", operation("Layers, routers and bytes, as the page shows them", object)}}},
      {"/coterie/experts", {{"get", operation("Tokens that each expert took since the start", object)}}},
      {"/coterie/live", {{"get", operation("What the server is doing, and the last requests", object)}}},
      {"/props", {{"get", operation("Defaults and properties", object)}}},
      {"/slots", {{"get", operation("What is being answered", list_of(object))}}},
      {"/metrics",
       {{"get",
         {{"summary", "Prometheus' text format"},
          {"responses",
           {{"200",
             {{"description", "Metrics"}, {"content", {{"text/plain", {{"schema", of_type("string")}}}}}}}}}}}}}};
  for (auto& path : paths.items())
    for (auto& method : path.value().items()) method.value()["operationId"] = method.key() + path.key();
  Json schemas = {
      {"Message", message_schema()},
      {"Usage", usage_schema()},
      {"Error", error_schema()},
      {"ChatRequest", chat_request()},
      {"ChatResponse", chat_response()},
      {"CompletionRequest", completion_request()},
      {"CompletionResponse", completion_response()},
      {"ResponsesRequest", request({{"input", {{"anyOf", Json::array({of_type("string"), list_of(object)})}}},
                                    {"instructions", nullable(of_type("string"))},
                                    {"max_output_tokens", ranged("integer", 1, 2147483647)}},
                                   {"input"})},
      {"MessagesRequest", request({{"messages", list_of(object)},
                                   {"max_tokens", {{"type", "integer"}, {"minimum", 1}, {"maximum", 2147483647}}},
                                   {"stop_sequences", list_of(of_type("string"))}},
                                  {"messages", "max_tokens"})},
      {"CountRequest", request({{"messages", list_of(object)}}, {"messages"}, false)},
      {"NativeRequest", request({{"prompt", prompt_schema()},
                                 {"n_predict", ranged("integer", -1, 2147483647)},
                                 {"n_probs", ranged("integer", 0, 100)}},
                                {"prompt"})},
      {"TokenizeRequest",
       request(
           {{"content", of_type("string")}, {"add_special", of_type("boolean")}, {"with_pieces", of_type("boolean")}},
           {"content"}, false)},
      {"DetokenizeRequest",
       request({{"tokens", list_of({{"type", "integer"}, {"minimum", 0}, {"maximum", model.vocabulary - 1}})}},
               {"tokens"}, false)},
      {"TemplateRequest", request({{"messages", list_of(reference("Message"))}}, {"messages"}, false)}};
  return {
      {"openapi", "3.1.0"},
      {"info",
       {{"title", "coterie serve"},
        {"version", runtime::version()},
        {"description", "One model, " + model.name + ", by the APIs of OpenAI, Anthropic and llama.cpp."}}},
      {"security", Json::array({Json::object(), {{"key", Json::array()}}})},
      {"paths", std::move(paths)},
      {"components",
       {{"schemas", std::move(schemas)}, {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
}

}  // namespace coterie::serve
