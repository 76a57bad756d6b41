#pragma once

#include <exception>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "serve/http/http.h"
#include "serve/request.h"

namespace coterie::serve {

/// Why a request is not answered, as the APIs say it.
struct ApiError : std::exception {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::string param;                        // the field at fault; may be empty
  std::string code;                         // a word for programs; may be empty
  base::Json extra = base::Json::object();  // further members of "error"
  double retry_after_seconds = 0;           // > 0: the header Retry-After

  ApiError() = default;
  ApiError(int status_, std::string message_, std::string param_ = "", std::string code_ = "");
  const char* what() const noexcept override { return message.c_str(); }
};

/// Whose form an error has.
enum class Dialect { openai, anthropic };

/// What the engine, the scheduler or a parser threw, as an error of the API.
ApiError as_api_error(const std::exception& error);
ApiError as_api_error(const RequestFailed& failed);
/// What was thrown while a body was read: as as_api_error(), and a value of a type that nobody asked about is the
/// client's fault.
ApiError as_body_error(const std::exception& error);
/// {"error": {"message": …, "type": …, "param": …, "code": …}}, or Anthropic's {"type": "error", "error": {…}}.
base::Json error_body(const ApiError& error, Dialect dialect);
HttpResponse error_response(const ApiError& error, Dialect dialect);
/// The JSON object of a request. Throws ApiError 400 for what is not JSON, NaN and Infinity included, or not an object.
base::Json parsed_body(const std::string& body);
/// JSON text; what is not UTF-8 becomes U+FFFD.
std::string dumped(const base::Json& json);

}  // namespace coterie::serve
