#pragma once

#include <functional>
#include <memory>
#include <string>

#include "serve/api/backend.h"
#include "serve/api/endpoints.h"
#include "serve/api/guard.h"
#include "serve/api/model.h"
#include "serve/api/shelf.h"
#include "serve/http/http.h"

namespace coterie::serve {

struct ServiceOptions {
  HttpOptions http;
  GuardOptions guard;
  MetricNames metric_names = MetricNames::coterie;
  int desk_threads = 2;
  bool log_prompts = false;
  bool metrics = true, slots = true;  // whether /metrics and /slots answer
  bool lenient = false;               // a model's name that is not known stands for the first model
  // Of error messages: fields of the server's options, `serve.…`, as whoever starts it knows them. May be empty.
  std::function<std::string(const std::string& text)> wording;
  std::function<void(const std::string& line)> log;  // a line of JSON for each request; called from several threads
};

/// The HTTP API over one model or several: routes, checks, and sessions.
class Service {
 public:
  /// Listens, and answers from start() on. `model` and `backend` must outlive it. Throws as HttpServer does.
  Service(const ServedModel& model, Backend& backend, ServiceOptions options);
  /// The same over several models; `shelf` must outlive it.
  Service(Shelf& shelf, ServiceOptions options);
  /// Ends all connections at once.
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  void start();
  uint16_t port() const;
  /// Takes no more requests; those that are being answered go on to their ends. idle() tells.
  void drain();
  bool idle() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace coterie::serve
