#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "serve/api/answer.h"
#include "serve/http/http.h"

namespace coterie::serve {

/// One request on its way, whatever it asks for: what its answer's head and its line in the log need.
struct Call {
  std::string id;      // of the request, for its log line and X-Request-Id
  std::string client;  // whose it is: a name made of its key, or its address
  std::string method, path, peer;
  std::string origin;  // where a page that may read the answer comes from; empty for programs
  Dialect dialect = Dialect::openai;
  std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
  std::shared_ptr<Exchange> exchange;
  std::function<void(const base::Json& line)> log;                 // may be empty
  std::function<std::string(const std::string& message)> wording;  // of errors; may be empty

  /// What every answer has.
  HttpHeaders headers() const;
  double seconds() const;
  /// Answers and logs.
  void reply(HttpResponse response) const;
  void reply_json(const base::Json& json) const;
  void fail(const ApiError& error) const;
  /// The error as clients are told of it.
  ApiError worded(ApiError error) const;
  /// A line of JSON. `answer` may be null; `how`: "ok", "client_gone", "error", …
  void write_log(int status, std::string_view how, const Answer* answer) const;
};

}  // namespace coterie::serve
