#include <coterie/coterie.h>
#include <coterie/coterie_c.h>

#include <algorithm>
#include <cstring>
#include <new>

// The promised C interface, in terms of the promised C++ one.
struct coterie_model {
  coterie::Model model;
};

struct coterie_session {
  coterie::Session session;
};

namespace {

using coterie::Error;

/// A callback of the caller's has asked to stop.
struct Stopped {};

thread_local std::string last_error;

coterie_status failed(coterie_status status, std::string_view message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

coterie_status status_of(Error::Kind kind) {
  switch (kind) {
    case Error::Kind::bad_input: return COTERIE_BAD_INPUT;
    case Error::Kind::unsupported: return COTERIE_UNSUPPORTED;
    case Error::Kind::not_found: return COTERIE_NOT_FOUND;
    case Error::Kind::out_of_memory: return COTERIE_OUT_OF_MEMORY;
    case Error::Kind::io: return COTERIE_IO;
    case Error::Kind::interrupted: return COTERIE_INTERRUPTED;
    case Error::Kind::internal: return COTERIE_INTERNAL;
  }
  return COTERIE_INTERNAL;
}

/// What is being handled now.
coterie_status caught() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return failed(status_of(error.kind()), error.what());
  } catch (const Stopped&) {
    return failed(COTERIE_STOPPED, "a callback asked to stop");
  } catch (const std::bad_alloc&) {
    return failed(COTERIE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failed(COTERIE_INTERNAL, error.what());
  } catch (...) {
    return failed(COTERIE_INTERNAL, "something that is not an exception was thrown");
  }
}

template <typename Body>
coterie_status guarded(Body body) noexcept {
  try {
    return body();
  } catch (...) {
    return caught();
  }
}

/// The first pointer that is null is named; `body` runs when none is.
struct Argument {
  const char* name;
  const void* pointer;
};
template <typename Body>
coterie_status with(std::initializer_list<Argument> arguments, Body body) noexcept {
  return guarded([&]() -> coterie_status {
    for (const Argument& argument : arguments)
      if (!argument.pointer) return failed(COTERIE_BAD_INPUT, std::string(argument.name) + ": is null");
    return body();
  });
}

template <typename T, typename U>
coterie_status give(const T* values, size_t size, U* out, size_t capacity, size_t* count) {
  *count = size;
  if (size > capacity)
    return failed(COTERIE_TOO_SMALL, "capacity: is " + std::to_string(capacity) + ", expected " + std::to_string(size));
  if (size > 0 && !out) return failed(COTERIE_BAD_INPUT, "the array to fill: is null");
  std::copy_n(values, size, out);
  return COTERIE_OK;
}

std::span<const int32_t> ids_of(const int32_t* ids, size_t count) {
  return ids ? std::span(ids, count) : std::span<const int32_t>();
}

/// The caller's options, in the fields that it knows; the defaults in those after.
template <typename Options>
bool read(const Options* given, Options& options) {
  if (!given) return true;
  if (given->size < sizeof(size_t) || given->size > 1 << 16) return false;
  std::memcpy(static_cast<void*>(&options), given, std::min(given->size, sizeof(Options)));
  return true;
}

/// As much of the defaults as the caller's struct has room for.
template <typename Options>
void give(Options defaults, Options* to, size_t size) {
  if (!to || size < sizeof(size_t)) return;
  size = std::min(size, sizeof(Options));
  defaults.size = size;
  std::memcpy(static_cast<void*>(to), &defaults, size);
}

coterie_load_options load_defaults() {
  const coterie::LoadOptions defaults;
  coterie_load_options options = {};
  options.step_tokens = defaults.step_tokens, options.adapter_factor = defaults.adapter_factor;
  return options;
}

coterie_generate_options generate_defaults() {
  const coterie::GenerateOptions defaults;
  coterie_generate_options options = {};
  options.max_tokens = defaults.max_tokens, options.top_k = defaults.top_k;
  options.repeat_last_n = defaults.repeat_last_n, options.temperature = defaults.temperature;
  options.top_p = defaults.top_p, options.min_p = defaults.min_p, options.typical = defaults.typical;
  options.repeat_penalty = defaults.repeat_penalty;
  options.dry_base = defaults.dry_base, options.dry_allowed_length = defaults.dry_allowed_length;
  options.dry_penalty_last_n = defaults.dry_penalty_last_n;
  options.xtc_threshold = defaults.xtc_threshold, options.top_n_sigma = defaults.top_n_sigma;
  options.dynatemp_exp = defaults.dynatemp_exp;
  options.mirostat_lr = defaults.mirostat_lr, options.mirostat_ent = defaults.mirostat_ent;
  return options;
}

coterie_status bad_size() {
  return failed(COTERIE_BAD_INPUT,
                "options: their size is not set; coterie_load_defaults and coterie_generate_defaults do");
}

coterie::GenerateOptions options_of(const coterie_generate_options& given) {
  coterie::GenerateOptions options;
  options.max_tokens = given.max_tokens, options.top_k = given.top_k, options.repeat_last_n = given.repeat_last_n;
  options.seed = given.seed, options.temperature = given.temperature, options.top_p = given.top_p;
  options.min_p = given.min_p, options.typical = given.typical, options.repeat_penalty = given.repeat_penalty;
  options.presence_penalty = given.presence_penalty, options.frequency_penalty = given.frequency_penalty;
  options.ignore_end = given.ignore_end != 0;
  options.dry_multiplier = given.dry_multiplier, options.dry_base = given.dry_base;
  options.dry_allowed_length = given.dry_allowed_length, options.dry_penalty_last_n = given.dry_penalty_last_n;
  if (given.dry_sequence_breakers)
    options.dry_sequence_breakers.assign(given.dry_sequence_breakers,
                                         given.dry_sequence_breakers + given.dry_sequence_breaker_count);
  options.xtc_probability = given.xtc_probability, options.xtc_threshold = given.xtc_threshold;
  options.top_n_sigma = given.top_n_sigma;
  options.dynatemp_range = given.dynatemp_range, options.dynatemp_exp = given.dynatemp_exp;
  options.mirostat = given.mirostat, options.mirostat_lr = given.mirostat_lr, options.mirostat_ent = given.mirostat_ent;
  if (given.json_schema) options.json_schema = given.json_schema;
  if (given.grammar) options.grammar = given.grammar;
  if (given.regex) options.regex = given.regex;
  for (size_t i = 0; given.stop && i < given.stop_count; ++i) options.stop.emplace_back(given.stop[i]);
  for (size_t i = 0; given.bias_ids && given.biases && i < given.bias_count; ++i)
    options.logit_bias.emplace_back(given.bias_ids[i], given.biases[i]);
  return options;
}

coterie::OnText on_text_of(coterie_on_text on_text, void* user) {
  if (!on_text) return {};
  return [on_text, user](std::string_view text) {
    if (on_text(text.data(), text.size(), user) != 0) throw Stopped();
  };
}

}  // namespace

const char* coterie_version(void) {
  static const std::string version(coterie::version());
  return version.c_str();
}

const char* coterie_last_error(void) { return last_error.c_str(); }

void coterie_load_defaults(coterie_load_options* options, size_t size) { give(load_defaults(), options, size); }
void coterie_generate_defaults(coterie_generate_options* options, size_t size) {
  give(generate_defaults(), options, size);
}

coterie_status coterie_model_load(const char* path, const coterie_load_options* given, coterie_model** model) {
  if (model) *model = nullptr;
  return with({{"path", path}, {"model", model}}, [&] {
    coterie_load_options read_options = load_defaults();
    if (!read(given, read_options)) return bad_size();
    coterie::LoadOptions options;
    options.threads = read_options.threads, options.context = read_options.context;
    options.step_tokens = read_options.step_tokens, options.cache_bytes = read_options.cache_bytes;
    options.exact = read_options.exact != 0, options.strict = read_options.strict != 0;
    if (read_options.cache_type < COTERIE_CACHE_AUTOMATIC || read_options.cache_type > COTERIE_CACHE_Q8_0)
      return failed(COTERIE_BAD_INPUT,
                    "cache_type: is " + std::to_string(read_options.cache_type) + ", expected 0 to 4");
    options.cache_type = static_cast<coterie::CacheType>(read_options.cache_type);
    if (read_options.experts_per_token != 0) options.experts_per_token = read_options.experts_per_token;
    if (read_options.router_temperature != 0)
      options.router_temperature = static_cast<float>(read_options.router_temperature);
    if (read_options.adapter) options.adapter = read_options.adapter;
    options.adapter_factor = read_options.adapter_factor;
    *model = new coterie_model{coterie::Model::load(path, options)};
    return coterie_status(COTERIE_OK);
  });
}

void coterie_model_free(coterie_model* model) { delete model; }
int64_t coterie_model_context(const coterie_model* model) { return model ? model->model.context_size() : 0; }
int64_t coterie_model_vocabulary(const coterie_model* model) { return model ? model->model.vocabulary_size() : 0; }
int64_t coterie_model_width(const coterie_model* model) { return model ? model->model.width() : 0; }
int64_t coterie_model_layers(const coterie_model* model) { return model ? model->model.layers() : 0; }
int64_t coterie_model_parameters(const coterie_model* model) { return model ? model->model.parameters() : 0; }
int64_t coterie_model_active_parameters(const coterie_model* model) {
  return model ? model->model.active_parameters() : 0;
}

coterie_status coterie_tokenize(const coterie_model* model, const char* text, int32_t add_special, int32_t* ids,
                                size_t capacity, size_t* count) {
  return with({{"model", model}, {"text", text}, {"count", count}}, [&] {
    const std::vector<int32_t> found = model->model.tokenize(text, add_special != 0);
    return give(found.data(), found.size(), ids, capacity, count);
  });
}

coterie_status coterie_detokenize(const coterie_model* model, const int32_t* ids, size_t ids_count, char* text,
                                  size_t capacity, size_t* count) {
  return with({{"model", model}, {"count", count}}, [&] {
    const std::string found = model->model.detokenize(ids_of(ids, ids_count));
    return give(found.data(), found.size(), text, capacity, count);
  });
}

coterie_status coterie_chat_prompt(const coterie_model* model, const coterie_message* messages, size_t messages_count,
                                   char* text, size_t capacity, size_t* count) {
  return with({{"model", model}, {"messages", messages}, {"count", count}}, [&] {
    std::vector<coterie::Message> list;
    for (size_t i = 0; i < messages_count; ++i) {
      if (!messages[i].role || !messages[i].content)
        return failed(COTERIE_BAD_INPUT, "messages: a role or a content is null");
      list.push_back({messages[i].role, messages[i].content});
    }
    const std::string prompt = model->model.apply_chat_template(list);
    return give(prompt.data(), prompt.size(), text, capacity, count);
  });
}

coterie_status coterie_session_new(const coterie_model* model, coterie_session** session) {
  if (session) *session = nullptr;
  return with({{"model", model}, {"session", session}}, [&] {
    *session = new coterie_session{model->model.session()};
    return coterie_status(COTERIE_OK);
  });
}

coterie_status coterie_session_fork(const coterie_session* session, coterie_session** fork) {
  if (fork) *fork = nullptr;
  return with({{"session", session}, {"fork", fork}}, [&] {
    *fork = new coterie_session{session->session.fork()};
    return coterie_status(COTERIE_OK);
  });
}

void coterie_session_free(coterie_session* session) { delete session; }

coterie_status coterie_session_start(coterie_session* session, const int32_t* ids, size_t ids_count,
                                     const coterie_generate_options* given, coterie_on_text on_text, void* user) {
  return with({{"session", session}}, [&] {
    coterie_generate_options options = generate_defaults();
    if (!read(given, options)) return bad_size();
    session->session.start(ids_of(ids, ids_count), options_of(options), on_text_of(on_text, user));
    return coterie_status(COTERIE_OK);
  });
}

coterie_status coterie_step(coterie_session* const* sessions, size_t count) {
  return guarded([&] {
    std::vector<coterie::Session*> all;
    for (size_t i = 0; sessions && i < count; ++i) all.push_back(sessions[i] ? &sessions[i]->session : nullptr);
    coterie::step(all);
    return coterie_status(COTERIE_OK);
  });
}

coterie_status coterie_session_generate(coterie_session* session, const int32_t* ids, size_t ids_count,
                                        const coterie_generate_options* options, coterie_on_text on_text, void* user) {
  const coterie_status started = coterie_session_start(session, ids, ids_count, options, on_text, user);
  if (started != COTERIE_OK) return started;
  return guarded([&] {
    while (!session->session.finished()) coterie::step({&session->session});
    return coterie_session_error(session);
  });
}

coterie_finish coterie_session_finish(const coterie_session* session) {
  if (!session) return COTERIE_NOT_YET;
  return static_cast<coterie_finish>(session->session.finish());
}

coterie_status coterie_session_error(const coterie_session* session) {
  return with({{"session", session}}, [&] {
    if (const std::exception_ptr error = session->session.error()) std::rethrow_exception(error);
    return coterie_status(COTERIE_OK);
  });
}

void coterie_session_cancel(coterie_session* session) {
  if (session) session->session.cancel();
}

coterie_status coterie_session_text(const coterie_session* session, char* text, size_t capacity, size_t* count) {
  return with({{"session", session}, {"count", count}}, [&] {
    const std::string found = session->session.generated().text;
    return give(found.data(), found.size(), text, capacity, count);
  });
}

coterie_status coterie_session_generated(const coterie_session* session, int32_t* ids, size_t capacity, size_t* count) {
  return with({{"session", session}, {"count", count}}, [&] {
    const std::vector<int32_t> found = session->session.generated().tokens;
    return give(found.data(), found.size(), ids, capacity, count);
  });
}

int64_t coterie_session_length(const coterie_session* session) { return session ? session->session.length() : 0; }

coterie_status coterie_session_truncate(coterie_session* session, int64_t length, int64_t* left) {
  return with({{"session", session}}, [&] {
    const int64_t kept = session->session.truncate(length);
    if (left) *left = kept;
    return coterie_status(COTERIE_OK);
  });
}

// The size is known before anything is computed, so asking for it costs nothing.
coterie_status coterie_session_logits(coterie_session* session, const int32_t* ids, size_t ids_count, int64_t first,
                                      float* logits, size_t capacity, size_t* count) {
  return with({{"session", session}, {"count", count}}, [&] {
    const auto rows = static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(ids_count) - first, 0));
    *count = rows * static_cast<size_t>(session->session.model().vocabulary_size());
    if (*count > capacity) return give(logits, *count, logits, capacity, count);
    const std::vector<float> found = session->session.logits(ids_of(ids, ids_count), first);
    return give(found.data(), found.size(), logits, capacity, count);
  });
}

coterie_status coterie_session_score(coterie_session* session, const int32_t* ids, size_t ids_count, int64_t first,
                                     double* scores, size_t capacity, size_t* count) {
  return with({{"session", session}, {"count", count}}, [&] {
    *count = static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(ids_count) - first, 0));
    if (*count > capacity) return give(scores, *count, scores, capacity, count);
    const std::vector<double> found = session->session.score(ids_of(ids, ids_count), first);
    return give(found.data(), found.size(), scores, capacity, count);
  });
}

coterie_status coterie_session_hidden(coterie_session* session, const int32_t* ids, size_t ids_count, int64_t layer,
                                      float* states, size_t capacity, size_t* count) {
  return with({{"session", session}, {"count", count}}, [&] {
    *count = ids_count * static_cast<size_t>(session->session.model().width());
    if (*count > capacity) return give(states, *count, states, capacity, count);
    const std::vector<float> found = session->session.hidden_states(ids_of(ids, ids_count), layer);
    return give(found.data(), found.size(), states, capacity, count);
  });
}

coterie_status coterie_session_on_routing(coterie_session* session, coterie_on_routing callback, void* user) {
  return with({{"session", session}}, [&] {
    if (!callback) {
      session->session.on_routing(nullptr);
      return coterie_status(COTERIE_OK);
    }
    session->session.on_routing([callback, user](const coterie::Routing& routing) {
      if (callback(routing.layer, routing.first_position, routing.tokens, routing.experts, routing.experts_per_token,
                   routing.chosen.data(), routing.weights.data(), routing.logits.data(), user) != 0)
        throw Stopped();
    });
    return coterie_status(COTERIE_OK);
  });
}
