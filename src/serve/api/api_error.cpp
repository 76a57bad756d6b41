#include "serve/api/api_error.h"

#include <algorithm>
#include <cmath>
#include <new>

namespace coterie::serve {

namespace {

std::string type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

// Anthropic's closed list of types.
std::string anthropic_type(const ApiError& error) {
  switch (error.status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return error.status >= 500 ? "api_error" : "invalid_request_error";
  }
}

int status_of(base::ErrorKind kind) {
  switch (kind) {
    case base::ErrorKind::bad_input:
    case base::ErrorKind::unsupported: return 400;
    case base::ErrorKind::not_found: return 404;
    case base::ErrorKind::out_of_memory: return 400;
    case base::ErrorKind::io: return 503;  // a disk, or a rank that is gone: not the request's fault, nor a bug
    default: return 500;
  }
}

ApiError made_of(base::ErrorKind kind, const std::string& where, const std::string& message, const std::string& hint) {
  std::string text = where.empty() ? message : where + ": " + message;
  if (!hint.empty()) text += " (" + hint + ")";
  // A field's name is one word; what says more is not a parameter.
  const bool field = where.find_first_of(" /:,") == std::string::npos;
  return {status_of(kind), text, field ? where : ""};
}

}  // namespace

ApiError::ApiError(int status_, std::string message_, std::string param_, std::string code_)
    : status(status_),
      type(type_of(status_)),
      message(std::move(message_)),
      param(std::move(param_)),
      code(std::move(code_)) {}

ApiError as_api_error(const std::exception& error) {
  if (const auto* own = dynamic_cast<const ApiError*>(&error)) return *own;
  if (const auto* refused = dynamic_cast<const Refused*>(&error)) {
    const bool stopping = refused->reason() == Refused::Reason::shutting_down;
    ApiError answer(stopping ? 503 : 429, refused->message(), "", stopping ? "shutting_down" : "server_busy");
    answer.retry_after_seconds = std::max(1.0, std::ceil(refused->retry_after_seconds()));
    answer.extra["retry_after_seconds"] = answer.retry_after_seconds;
    return answer;
  }
  if (const auto* failed = dynamic_cast<const base::Error*>(&error))
    return made_of(failed->kind(), failed->where(), failed->message(), failed->hint());
  if (dynamic_cast<const std::bad_alloc*>(&error)) return {503, "out of memory: try again later, or ask for less"};
  return {500, error.what()};
}

ApiError as_api_error(const RequestFailed& failed) {
  return made_of(failed.kind, failed.where, failed.message, failed.hint);
}

ApiError as_body_error(const std::exception& error) {
  if (dynamic_cast<const base::Json::exception*>(&error))
    return {400, std::string("the body has a value of a type that is not expected there (") + error.what() + ")"};
  return as_api_error(error);
}

base::Json error_body(const ApiError& error, Dialect dialect) {
  if (dialect == Dialect::anthropic)
    return {{"type", "error"}, {"error", {{"type", anthropic_type(error)}, {"message", error.message}}}};
  base::Json inner = error.extra;
  inner["message"] = error.message;
  inner["type"] = error.type;
  inner["param"] = error.param.empty() ? base::Json() : base::Json(error.param);
  inner["code"] = error.code.empty() ? base::Json() : base::Json(error.code);
  return {{"error", inner}};
}

HttpResponse error_response(const ApiError& error, Dialect dialect) {
  HttpResponse response;
  response.status = error.status;
  response.body = dumped(error_body(error, dialect));
  if (error.retry_after_seconds > 0)
    response.headers.emplace_back("Retry-After",
                                  std::to_string(static_cast<int64_t>(std::ceil(error.retry_after_seconds))));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

base::Json parsed_body(const std::string& body) {
  base::Json json;
  try {
    json = base::parse_json(body, "body", base::DuplicateKeys::refuse);
  } catch (const base::Error& error) {
    throw ApiError(400, "the body: " + error.message(), "", "invalid_json");
  }
  // That reads NaN and Infinity as well, which files of models hold and JSON does not allow.
  if (!base::Json::accept(body))
    throw ApiError(400, "the body is not JSON: it has NaN or Infinity", "", "invalid_json");
  if (!json.is_object()) throw ApiError(400, "the body: expected a JSON object");
  return json;
}

std::string dumped(const base::Json& json) { return json.dump(-1, ' ', false, base::Json::error_handler_t::replace); }

}  // namespace coterie::serve
