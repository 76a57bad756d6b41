#include "runtime/version.h"
#include "serve/api/endpoints.h"
#include "serve/api/openapi_requests.h"

// The description of the API for programs.
namespace coterie::serve {

namespace {

using base::Json;

Json of_type(const char* type) { return {{"type", type}}; }
Json nullable(Json schema) {
  schema["type"] = Json::array({schema["type"], "null"});
  return schema;
}

Json object_schema(Json properties, Json required) {
  return {{"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
}

Json usage_schema() {
  return object_schema({{"prompt_tokens", of_type("integer")},
                        {"completion_tokens", of_type("integer")},
                        {"total_tokens", of_type("integer")}},
                       {"prompt_tokens", "completion_tokens", "total_tokens"});
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

Json embedding_response() {
  const Json one = object_schema({{"object", {{"const", "embedding"}}},
                                  {"index", of_type("integer")},
                                  {"embedding", {{"type", Json::array({"array", "string"})}}}},
                                 {"object", "index", "embedding"});
  return object_schema({{"object", {{"const", "list"}}},
                        {"data", list_of(one)},
                        {"model", of_type("string")},
                        {"pooling", {{"enum", {"mean", "last"}}}},
                        {"usage", of_type("object")}},
                       {"object", "data", "model", "pooling", "usage"});
}

Json model_list() {
  const Json one = object_schema({{"id", of_type("string")},
                                  {"object", {{"const", "model"}}},
                                  {"created", of_type("integer")},
                                  {"owned_by", of_type("string")}},
                                 {"id", "object", "created", "owned_by"});
  return object_schema({{"object", {{"const", "list"}}}, {"data", list_of(one)}}, {"object", "data"});
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

Json openapi_json() {
  const Json object = of_type("object");
  Json paths = {
      {"/health", {{"get", operation("Whether answers can be expected", object)}}},
      {"/v1/models", {{"get", operation("The models that are served", reference("ModelList"))}}},
      {"/v1/chat/completions",
       {{"post", operation("Answers a conversation", reference("ChatResponse"), "ChatRequest", true)}}},
      {"/v1/completions",
       {{"post", operation("Continues texts", reference("CompletionResponse"), "CompletionRequest", true)}}},
      {"/v1/responses",
       {{"post", operation("Answers a conversation; nothing is kept", object, "ResponsesRequest", true)}}},
      {"/v1/messages",
       {{"post", operation("Answers a conversation, in Anthropic's form", object, "MessagesRequest", true)}}},
      {"/v1/embeddings",
       {{"post", operation("Embeddings of texts", reference("EmbeddingResponse"), "EmbeddingRequest")}}},
      {"/v1/messages/count_tokens", {{"post", operation("The tokens of such a conversation", object, "CountRequest")}}},
      {"/completion",
       {{"post", operation("Continues texts, in llama.cpp's form", Json::object(), "NativeRequest", true)}}},
      {"/tokenize", {{"post", operation("The token ids of a text", object, "TokenizeRequest")}}},
      {"/detokenize", {{"post", operation("The text of token ids", object, "DetokenizeRequest")}}},
      {"/apply-template", {{"post", operation("The prompt that messages become", object, "TemplateRequest")}}},
      {"/coterie/model", {{"get", operation("Layers, routers and bytes, as the page shows them", object)}}},
      {"/coterie/experts",
       {{"get", operation("Tokens that each expert took since the start, and where it lies", object)}}},
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
  Json schemas = openapi_requests();
  schemas["Usage"] = usage_schema();
  schemas["Error"] = error_schema();
  schemas["ChatResponse"] = chat_response();
  schemas["CompletionResponse"] = completion_response();
  schemas["EmbeddingResponse"] = embedding_response();
  schemas["ModelList"] = model_list();
  return {
      {"openapi", "3.1.0"},
      {"info",
       {{"title", "coterie serve"},
        {"version", runtime::version()},
        {"description", "Language models by the APIs of OpenAI, Anthropic and llama.cpp."}}},
      {"security", Json::array({Json::object(), {{"key", Json::array()}}})},
      {"paths", std::move(paths)},
      {"components",
       {{"schemas", std::move(schemas)}, {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
}

}  // namespace coterie::serve
