#include "serve/api/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <unordered_set>

#include "base/nearest.h"
#include "serve/api/page_endpoints.h"
#include "serve/api/session.h"

namespace coterie::serve {

namespace {

constexpr size_t kDeskQueue = 256;

enum class Endpoint {
  root,
  health,
  models,
  model,
  props,
  slots,
  metrics,
  openapi,
  page_model,
  page_experts,
  page_live,  // answered at once
  chat,
  completions,
  native,
  responses,
  messages,
  embeddings,  // by the engine
  chat_tokens,
  responses_tokens,
  count_tokens,
  tokenize,
  detokenize,
  apply_template  // by the desk
};

struct Route {
  std::string_view method, path;
  Endpoint endpoint;
  bool open = false;  // without a key
  Dialect dialect = Dialect::openai;
};

constexpr Route kRoutes[] = {
    {"GET", "/", Endpoint::root, true},
    {"GET", "/health", Endpoint::health, true},
    {"GET", "/v1/health", Endpoint::health, true},
    {"GET", "/models", Endpoint::models, true},
    {"GET", "/v1/models", Endpoint::models},
    {"GET", "/props", Endpoint::props},
    {"GET", "/slots", Endpoint::slots},
    {"GET", "/metrics", Endpoint::metrics},
    {"GET", "/openapi.json", Endpoint::openapi},
    {"GET", "/coterie/model", Endpoint::page_model},
    {"GET", "/coterie/experts", Endpoint::page_experts},
    {"GET", "/coterie/live", Endpoint::page_live},
    {"POST", "/v1/chat/completions", Endpoint::chat},
    {"POST", "/chat/completions", Endpoint::chat},
    {"POST", "/v1/completions", Endpoint::completions},
    {"POST", "/completion", Endpoint::native},
    {"POST", "/completions", Endpoint::native},
    {"POST", "/v1/responses", Endpoint::responses},
    {"POST", "/responses", Endpoint::responses},
    {"POST", "/v1/embeddings", Endpoint::embeddings},
    {"POST", "/embeddings", Endpoint::embeddings},
    {"POST", "/v1/messages", Endpoint::messages, false, Dialect::anthropic},
    {"POST", "/v1/messages/count_tokens", Endpoint::count_tokens, false, Dialect::anthropic},
    {"POST", "/v1/chat/completions/input_tokens", Endpoint::chat_tokens},
    {"POST", "/chat/completions/input_tokens", Endpoint::chat_tokens},
    {"POST", "/v1/responses/input_tokens", Endpoint::responses_tokens},
    {"POST", "/tokenize", Endpoint::tokenize},
    {"POST", "/detokenize", Endpoint::detokenize},
    {"POST", "/apply-template", Endpoint::apply_template},
};
constexpr std::string_view kModelPath = "/v1/models/";

bool good_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

Dialect dialect_of(std::string_view path) {
  return path.starts_with("/v1/messages") ? Dialect::anthropic : Dialect::openai;
}

// Either the route, or why there is none.
struct Found {
  const Route* route = nullptr;
  ApiError error;
  std::string allow;  // of 405
};

Found find_route(const HttpRequest& request) {
  static constexpr Route one_model = {"GET", kModelPath, Endpoint::model};
  Found found;
  for (const Route& route : kRoutes) {
    if (route.path != request.path) continue;
    if (route.method == request.method) return found.route = &route, found;
    found.allow = route.method;
  }
  if (request.path.starts_with(kModelPath)) {
    if (request.method == "GET") return found.route = &one_model, found;
    found.allow = "GET";
  }
  if (!found.allow.empty()) {
    found.error =
        ApiError(405, fmt::format("{} is asked with {}, not with {}", request.path, found.allow, request.method));
    return found;
  }
  std::vector<std::string> known;
  for (const Route& route : kRoutes) known.emplace_back(route.path);
  const std::string near = base::did_you_mean(request.path, known);
  found.error = ApiError(404,
                         fmt::format("there is no {} here{}", request.path,
                                     near.empty() ? ": /openapi.json lists what there is" : " (" + near + ")"),
                         "", "not_found");
  return found;
}

}  // namespace

struct Service::Impl {
  Impl(std::unique_ptr<Shelf> own_, Shelf& shelf_, ServiceOptions options_)
      : own(std::move(own_)),
        shelf(shelf_),
        options(std::move(options_)),
        guard(options.guard),
        desk(std::make_unique<Desk>(options.desk_threads, kDeskQueue)),
        http(std::make_unique<HttpServer>(options.http, callbacks())),
        floor{*desk, http->poster()} {}
  ~Impl() {
    http->stop();  // nothing comes in any more, and all that is being answered is cancelled
    shelf.stop();  // who waits for a model has been told
    desk.reset();  // what it was doing is done
    for (const auto& session : sessions) session->release();
    sessions.clear();
  }

  const std::unique_ptr<Shelf> own;  // where the service was given one model
  Shelf& shelf;
  ServiceOptions options;
  const int64_t began = std::time(nullptr);
  Guard guard;
  std::unique_ptr<Desk> desk;
  std::unique_ptr<HttpServer> http;
  Floor floor;
  std::unordered_set<std::shared_ptr<Session>> sessions;  // of the I/O thread
  std::atomic<bool> draining{false};
  RecentRequests recent;
  // The page shows the last requests that the engine answered.
  std::function<void(const base::Json& line)> log_line = [this](const base::Json& line) {
    if (line.value("method", "") == "POST") recent.add(line);
    if (options.log) options.log(dumped(line));
  };

  HttpCallbacks callbacks() {
    HttpCallbacks all;
    all.on_head = [this](const HttpRequest& head) { return look_at(head); };
    all.on_request = [this](HttpRequest request, std::shared_ptr<Exchange> exchange) {
      take(std::move(request), std::move(exchange));
    };
    all.on_fault = [this](int status, std::string_view message, const HttpRequest& head) {
      return answer_now(head, error_response(worded(ApiError(status, std::string(message))), dialect_of(head.path)));
    };
    all.on_tick = [this] { tick(); };
    return all;
  }

  Call call_of(const HttpRequest& request) const {
    Call call;
    const std::string_view given = request.header("X-Request-Id");
    call.id = good_id(given) ? std::string(given) : fresh_id("req_");
    call.client = guard.client_of(request);
    call.method = request.method, call.path = request.path, call.peer = request.peer;
    call.dialect = dialect_of(request.path);
    if (!guard.check_origin(request)) call.origin = request.header("Origin");
    call.log = log_line;
    call.wording = options.wording;
    return call;
  }

  ApiError worded(ApiError error) const {
    if (options.wording) error.message = options.wording(error.message);
    return error;
  }

  HttpResponse answer_now(const HttpRequest& head, HttpResponse response) const {
    const Call call = call_of(head);
    HttpHeaders all = call.headers();
    all.insert(all.end(), response.headers.begin(), response.headers.end());
    response.headers = std::move(all);
    call.write_log(response.status, response.status < 400 ? "ok" : "refused", nullptr);
    return response;
  }

  /// What is answered before a body is read: everything that is wrong already.
  std::optional<HttpResponse> look_at(const HttpRequest& head) const {
    const auto refuse = [&](const ApiError& error) {
      return answer_now(head, error_response(worded(error), dialect_of(head.path)));
    };
    if (const auto error = guard.check_host(head)) return refuse(*error);
    // To a page of a foreign origin it names no origin that may read an answer, so its browser asks no further.
    if (head.method == "OPTIONS") return answer_now(head, preflight());
    if (const auto error = guard.check_origin(head)) return refuse(*error);
    const Found found = find_route(head);
    if (!found.route || !found.route->open)
      if (const auto error = guard.check_key(head)) return refuse(*error);
    if (!found.route) {
      HttpResponse response = refuse(found.error);
      if (!found.allow.empty()) response.headers.emplace_back("Allow", found.allow);
      return response;
    }
    if (const auto error = guard.check_content_type(head)) return refuse(*error);
    if (draining && found.route->method == "POST") return refuse({503, "the server is stopping", "", "shutting_down"});
    return {};
  }

  static HttpResponse preflight() {
    HttpResponse response;
    response.content_type.clear();
    response.headers = {{"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
                        {"Access-Control-Allow-Headers",
                         "Authorization, Content-Type, X-Api-Key, X-Request-Id, anthropic-version, anthropic-beta"},
                        {"Access-Control-Max-Age", "600"}};
    return response;
  }

  void take(HttpRequest request, std::shared_ptr<Exchange> exchange) {
    Call call = call_of(request);
    call.exchange = std::move(exchange);
    try {
      const Found found = find_route(request);
      if (!found.route) return call.fail(found.error);
      if (request.method == "GET") return at_once(found.route->endpoint, request, call);
      const Endpoint endpoint = found.route->endpoint;
      const auto body = std::make_shared<std::string>(std::move(request.body));
      const bool taken = desk->post([this, endpoint, body, call] { at_desk(endpoint, *body, call); });
      if (taken) return;
      ApiError error(429, fmt::format("{} requests wait to be read already", kDeskQueue), "", "server_busy");
      error.retry_after_seconds = 1;
      call.fail(error);
    } catch (const std::exception& error) {
      call.fail(as_api_error(error));
    }
  }

  void at_once(Endpoint endpoint, const HttpRequest& request, const Call& call) {
    switch (endpoint) {
      case Endpoint::health: {
        Health health;
        bool first = true;
        for (const ShelvedModel& each : shelf.all()) {
          if (!each.ready) continue;
          Health one = health_of(each.ready->backend->snapshot());
          // Several models: the sum of their requests, and whatever is wrong with any.
          if (!first && one.status == 200 && health.status == 200)
            for (const char* key : {"running", "waiting"})
              one.json[key] = one.json[key].get<int64_t>() + health.json[key].get<int64_t>();
          if (first || one.status != 200 || health.status == 200) health = std::move(one);
          first = false;
        }
        if (first) health.json = {{"status", "ok"}, {"running", 0}, {"waiting", 0}};
        HttpResponse response;
        response.status = health.status;
        response.body = dumped(health.json);
        return call.reply(std::move(response));
      }
      case Endpoint::models: return call.reply_json(models_json(shelf.all(), began));
      case Endpoint::model: return call.reply_json(model_json(find(request.path.substr(kModelPath.size())), began));
      case Endpoint::props: {
        const auto model = loaded(request);
        return call.reply_json(props_json(*model->served, model->backend->options()));
      }
      case Endpoint::slots: {
        if (!options.slots) return call.fail(switched_off("serve.no_slots"));
        const auto model = loaded(request);
        const Snapshot snapshot = model->backend->snapshot();
        const SchedulerOptions scheduler = model->backend->options();
        if (request.query_value("fail_on_no_slot") && snapshot.running >= scheduler.parallel)
          return call.fail({503, "all slots are taken", "", "no_slot_available"});
        return call.reply_json(slots_json(snapshot, *model->served, scheduler));
      }
      case Endpoint::metrics: {
        if (!options.metrics) return call.fail(switched_off("serve.no_metrics"));
        HttpResponse response;
        response.content_type = "text/plain; version=0.0.4; charset=utf-8";
        response.headers.emplace_back("Process-Start-Time-Unix", std::to_string(began));
        response.body = metrics_text(shelf.all(), http->connections(), options.metric_names);
        return call.reply(std::move(response));
      }
      case Endpoint::openapi: return call.reply_json(openapi_json());
      case Endpoint::page_model: {
        const auto model = loaded(request);
        return call.reply_json(page_model_json(*model->served, model->backend->options()));
      }
      case Endpoint::page_experts: {
        const auto model = loaded(request);
        return call.reply_json(page_experts_json(model->backend->snapshot(), *model->served));
      }
      case Endpoint::page_live: return call.reply_json(page_live_json(loaded(request)->backend->snapshot(), recent));
      default: {
        // Programs are told in plain words where to go; a browser gets the page.
        if (request.header("Accept").find("text/html") != std::string_view::npos) return call.reply(page_response());
        HttpResponse response;
        response.content_type = "text/plain; charset=utf-8";
        response.body =
            fmt::format("coterie serves {} here.\nPoint an OpenAI client at /v1; /openapi.json lists all there is.\n",
                        fmt::join(names(), ", "));
        return call.reply(std::move(response));
      }
    }
  }

  static ApiError switched_off(const char* field) {
    return {501, fmt::format("this server was started with `{}`", field), "", "switched_off"};
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const ShelvedModel& each : shelf.all()) names.push_back(each.name);
    return names;
  }

  ShelvedModel find(const std::string& name) const {
    const std::vector<ShelvedModel> all = shelf.all();
    for (const ShelvedModel& each : all)
      if (name == each.name || std::find(each.aliases.begin(), each.aliases.end(), name) != each.aliases.end())
        return each;
    if (options.lenient || name.empty()) return all.front();
    throw ApiError(404,
                   fmt::format("the model \"{}\" is not served here; there {} \"{}\"", name,
                               all.size() == 1 ? "is" : "are", fmt::join(names(), "\", \"")),
                   "model", "model_not_found");
  }

  /// The model that the query of a request names which only looks. Nothing is loaded for it.
  std::shared_ptr<const ReadyModel> loaded(const HttpRequest& request) const {
    const ShelvedModel found = find(request.query_value("model").value_or(""));
    if (found.ready) return found.ready;
    throw ApiError(503, fmt::format("the model \"{}\" is not loaded: the first request to it loads it", found.name),
                   "model", "model_not_loaded");
  }

  void at_desk(Endpoint endpoint, const std::string& body, const Call& call) {
    try {
      if (call.exchange->closed()) return call.write_log(499, "client_gone", nullptr);
      if (options.log_prompts && options.log) options.log(dumped({{"request", call.id}, {"body", body}}));
      base::Json json = parsed_body(body);
      std::string wanted;
      if (json.contains("model") && !json["model"].is_null()) {
        if (!json["model"].is_string()) throw ApiError(400, "model: expected a string", "model");
        wanted = json["model"].get<std::string>();
      }
      const ShelvedModel found = find(wanted);
      if (found.ready) return answer(endpoint, json, body, call, found.ready);
      // The I/O and desk threads do not wait for a model that is being loaded.
      const auto kept = std::make_shared<const std::pair<base::Json, std::string>>(std::move(json), body);
      shelf.open(found.name, [this, endpoint, kept, call](const std::shared_ptr<const ReadyModel>& ready,
                                                          const std::exception_ptr& error) {
        desk->always([this, endpoint, kept, call, ready, error] {
          try {
            if (error) std::rethrow_exception(error);
            answer(endpoint, kept->first, kept->second, call, ready);
          } catch (const std::exception& thrown) {
            call.fail(as_api_error(thrown));
          }
        });
      });
    } catch (const std::exception& error) {
      call.fail(as_api_error(error));
    }
  }

  void answer(Endpoint endpoint, const base::Json& json, const std::string& body, const Call& call,
              const std::shared_ptr<const ReadyModel>& ready) {
    const ServedModel& model = *ready->served;
    try {
      if (call.exchange->closed()) return call.write_log(499, "client_gone", nullptr);
      switch (endpoint) {
        case Endpoint::chat: return open(call, chat_answer(json, body, model), ready);
        case Endpoint::completions: return open(call, completion_answer(json, body, model), ready);
        case Endpoint::native: return open(call, native_answer(json, body, model), ready);
        case Endpoint::responses: return open(call, responses_answer(json, body, model), ready);
        case Endpoint::messages: return open(call, messages_answer(json, body, model), ready);
        case Endpoint::embeddings: return open(call, embedding_answer(json, body, model), ready);
        case Endpoint::chat_tokens: return call.reply_json(chat_tokens_json(json, body, model));
        case Endpoint::responses_tokens: return call.reply_json(responses_tokens_json(json, body, model));
        case Endpoint::count_tokens: return call.reply_json(count_tokens_json(json, body, model));
        case Endpoint::tokenize: return call.reply_json(tokenize_json(json, model));
        case Endpoint::detokenize: return call.reply_json(detokenize_json(json, model));
        case Endpoint::apply_template: return call.reply_json(apply_template_json(json, body, model));
        default: throw ApiError(500, "this endpoint has no answer");
      }
    } catch (const std::exception& error) {
      call.fail(as_body_error(error));
    }
  }

  void open(const Call& call, std::unique_ptr<Answer> answer, const std::shared_ptr<const ReadyModel>& ready) {
    answer->dialect = call.dialect;
    const auto session = std::make_shared<Session>(floor, call, std::move(answer), ready);
    http->post([this, session] { sessions.insert(session); });
    try {
      session->open();
    } catch (...) {
      http->post([this, session] { sessions.erase(session); });
      throw;
    }
  }

  void tick() {
    const auto now = std::chrono::steady_clock::now();
    for (auto at = sessions.begin(); at != sessions.end();) {
      (*at)->tick(now);
      if ((*at)->over()) {
        (*at)->release();
        at = sessions.erase(at);
      } else {
        ++at;
      }
    }
  }
};

Service::Service(const ServedModel& model, Backend& backend, ServiceOptions options) {
  auto shelf = std::make_unique<OneModel>(model, backend);
  Shelf& all = *shelf;
  options.lenient |= model.lenient;
  impl_ = std::make_unique<Impl>(std::move(shelf), all, std::move(options));
}

Service::Service(Shelf& shelf, ServiceOptions options)
    : impl_(std::make_unique<Impl>(nullptr, shelf, std::move(options))) {}

Service::~Service() = default;

void Service::start() { impl_->http->start(); }
uint16_t Service::port() const { return impl_->http->port(); }

void Service::drain() {
  impl_->draining = true;
  impl_->http->drain();
  impl_->shelf.drain();
}

bool Service::idle() const { return impl_->http->exchanges() == 0 && impl_->shelf.idle(); }

}  // namespace coterie::serve
