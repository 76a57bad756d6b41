// The description of the API says of every body exactly the fields that are read and not refused.
#include <gtest/gtest.h>

#include <functional>

#include "client.h"
#include "fake_backend.h"
#include "serve/api/answer.h"
#include "serve/api/endpoints.h"
#include "serve/api/fields.h"
#include "serve/api/openapi_requests.h"

namespace coterie::serve::test {
namespace {

struct Handler {
  const char* schema;
  base::Json body;
  std::function<void(const base::Json& body, const std::string& text, const ServedModel& model)> read;
};

std::vector<Handler> handlers() {
  const base::Json hello = {{{"role", "user"}, {"content", "Hi"}}};
  const base::Json chat = {{"messages", hello}}, sized = {{"messages", hello}, {"max_tokens", 3}};
  return {
      {"ChatRequest", chat, chat_answer},
      {"CompletionRequest", {{"prompt", "Hi"}}, completion_answer},
      {"NativeRequest", {{"prompt", "Hi"}}, native_answer},
      {"ResponsesRequest", {{"input", "Hi"}}, responses_answer},
      {"MessagesRequest", sized, messages_answer},
      {"CountRequest", sized, count_tokens_json},
      {"EmbeddingRequest", {{"input", "Hi"}}, embedding_answer},
      {"TokenizeRequest", {{"content", "Hi"}}, [](const auto& b, const auto&, const auto& m) { tokenize_json(b, m); }},
      {"DetokenizeRequest",
       {{"tokens", {72}}},
       [](const auto& b, const auto&, const auto& m) { detokenize_json(b, m); }},
      {"TemplateRequest", chat, apply_template_json}};
}

TEST(OpenApi, ListsTheFieldsThatAreRead) {
  const ServedModel model = fake_model();
  const base::Json schemas = openapi_requests();
  size_t bodies = 0;
  for (const auto& item : schemas.items()) bodies += item.key().ends_with("Request");
  EXPECT_EQ(bodies, handlers().size());
  for (const Handler& handler : handlers()) {
    FieldWatch watch;
    handler.read(handler.body, handler.body.dump(), model);
    ASSERT_TRUE(schemas.contains(handler.schema)) << handler.schema;
    const base::Json& properties = schemas[handler.schema]["properties"];
    for (const std::string& name : watch.names)
      EXPECT_EQ(properties.contains(name), !watch.refused.contains(name)) << handler.schema << ": " << name;
    for (const auto& property : properties.items())
      EXPECT_TRUE(watch.names.contains(property.key()))
          << handler.schema << " lists what nobody reads: " << property.key();
  }
}

TEST(OpenApi, EveryPathIsServed) {
  const Fixture fixture;
  const base::Json paths = openapi_json()["paths"];
  EXPECT_GE(paths.size(), 15U);
  for (const auto& path : paths.items())
    for (const auto& method : path.value().items()) {
      const bool posts = method.key() == "post";
      const Reply reply = ask(fixture.port(), posts ? post(path.key(), "{}") : get(path.key()));
      EXPECT_TRUE(reply.status == 200 || (posts && reply.status == 400)) << path.key() << ": " << reply.status;
    }
}

}  // namespace
}  // namespace coterie::serve::test
