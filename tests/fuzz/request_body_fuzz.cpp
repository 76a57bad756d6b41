// Bodies of requests, each as a body of every endpoint: whatever comes in, what is wrong with it is the client's fault.
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "fuzz/require.h"
#include "serve/api/answer.h"
#include "serve/api/endpoints.h"
#include "unit/serve_http/fake_model.h"

namespace coterie::serve {
namespace {

using Read = std::function<void(const base::Json& body, const std::string& text, const ServedModel& model)>;

const std::vector<Read>& handlers() {
  static const std::vector<Read> all = {
      chat_answer,
      completion_answer,
      native_answer,
      responses_answer,
      messages_answer,
      embedding_answer,
      count_tokens_json,
      apply_template_json,
      chat_tokens_json,
      responses_tokens_json,
      [](const auto& body, const auto&, const auto& model) { tokenize_json(body, model); },
      [](const auto& body, const auto&, const auto& model) { detokenize_json(body, model); }};
  return all;
}

void read(const Read& handler, const base::Json& body, const std::string& text, const ServedModel& model) {
  try {
    handler(body, text, model);
  } catch (const std::exception& error) {
    const ApiError told = as_body_error(error);
    if (told.status >= 500) std::fprintf(stderr, "%s\n", told.message.c_str());
    FUZZ_REQUIRE(told.status < 500);
    FUZZ_REQUIRE(base::Json::accept(dumped(error_body(told, Dialect::openai))));
  }
}

}  // namespace
}  // namespace coterie::serve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace coterie;
  static const serve::ServedModel models[] = {serve::test::fake_model(), serve::test::calling_model()};
  const std::string text(reinterpret_cast<const char*>(data), size);
  base::Json json;
  try {
    json = serve::parsed_body(text);
  } catch (const serve::ApiError& error) {
    FUZZ_REQUIRE(error.status == 400);
    return 0;
  }
  for (const serve::ServedModel& model : models)
    for (const serve::Read& handler : serve::handlers()) serve::read(handler, json, text, model);
  return 0;
}
