#ifndef COTERIE_C_H
#define COTERIE_C_H

#include <stddef.h>
#include <stdint.h>

// coterie.h in C, for other languages: opaque handles, status codes, and a message for the last error of each thread.
// What is here stays as it is within a major version from 1.0 on: structs only grow at their ends, and say how large
// their user believes them to be.
//
// Letters of shapes: T tokens, V vocabulary, D model width, E experts, K experts per token; arrays are row by row.
//
// Memory: arrays are the caller's. A function that fills one takes its capacity in elements and stores in *count how
// many there are; where those are more than the capacity it stores none and returns COTERIE_TOO_SMALL, so a first call
// with a capacity of 0 asks for the size. Strings that come back are UTF-8, counted in bytes and not ended by a zero;
// strings that go in are ended by one. Handles may be freed in any order, a null handle too. A model may be used by
// several threads, a session by one at a time, coterie_session_cancel aside.

#if defined(__GNUC__)
#define COTERIE_C_API __attribute__((visibility("default")))
#else
#define COTERIE_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_model coterie_model;
typedef struct coterie_session coterie_session;

typedef int32_t coterie_status;
enum {
  COTERIE_OK = 0,
  // The kinds of coterie::Error.
  COTERIE_BAD_INPUT = 1,
  COTERIE_UNSUPPORTED = 2,
  COTERIE_NOT_FOUND = 3,
  COTERIE_OUT_OF_MEMORY = 4,
  COTERIE_IO = 5,
  COTERIE_INTERRUPTED = 6,
  COTERIE_INTERNAL = 7,
  COTERIE_TOO_SMALL = 8,  // of an array: *count says how large it must be
  COTERIE_STOPPED = 9     // a callback asked for it
};

typedef int32_t coterie_finish;
enum {
  COTERIE_NOT_YET = 0,
  COTERIE_END_TOKEN = 1,
  COTERIE_STOP_STRING = 2,
  COTERIE_MAX_TOKENS = 3,
  COTERIE_CONTEXT_FULL = 4,
  COTERIE_FINISH_INTERRUPTED = 5,
  COTERIE_FAILED = 6
};

typedef int32_t coterie_cache_type;
enum {
  COTERIE_CACHE_AUTOMATIC = 0,
  COTERIE_CACHE_F32 = 1,
  COTERIE_CACHE_F16 = 2,
  COTERIE_CACHE_BF16 = 3,
  COTERIE_CACHE_Q8_0 = 4
};

/// coterie::LoadOptions. Fill it with coterie_load_defaults, then change what is to differ.
typedef struct coterie_load_options {
  size_t size;  // of this struct
  int64_t context, step_tokens, cache_bytes;
  int64_t experts_per_token;  // 0 = the checkpoint's
  double router_temperature;  // 0 = no draws
  double adapter_factor;
  const char* adapter;  // a folder; null: none
  int32_t threads;
  coterie_cache_type cache_type;
  int32_t exact, strict;  // 0 or 1
} coterie_load_options;

/// coterie::GenerateOptions, likewise.
typedef struct coterie_generate_options {
  size_t size;
  int64_t max_tokens, top_k, repeat_last_n;
  uint64_t seed;
  double temperature, top_p, min_p, typical, repeat_penalty, presence_penalty, frequency_penalty;
  const char* const* stop;  // [stop_count]
  size_t stop_count;
  const int32_t* bias_ids;  // [bias_count], with
  const float* biases;      // [bias_count]
  size_t bias_count;
  int32_t ignore_end, mirostat;
  int64_t dry_allowed_length, dry_penalty_last_n;
  const char* const* dry_sequence_breakers;  // [dry_sequence_breaker_count]; null: the defaults
  size_t dry_sequence_breaker_count;
  double dry_multiplier, dry_base, xtc_probability, xtc_threshold, top_n_sigma, dynatemp_range, dynatemp_exp;
  double mirostat_lr, mirostat_ent;
  const char *json_schema, *grammar, *regex;  // null: none
} coterie_generate_options;

typedef struct coterie_message {
  const char* role;
  const char* content;
} coterie_message;

/// Whole UTF-8 as soon as it is certain. Another answer than 0 ends the text: the call returns COTERIE_STOPPED.
typedef int32_t (*coterie_on_text)(const char* text, size_t bytes, void* user);
/// coterie::Routing: `chosen` and `weights` [tokens, experts_per_token], `logits` [tokens, experts]; they live as long
/// as the call. Another answer than 0 stops as above.
typedef int32_t (*coterie_on_routing)(int64_t layer, int64_t first_position, int64_t tokens, int64_t experts,
                                      int64_t experts_per_token, const int32_t* chosen, const float* weights,
                                      const float* logits, void* user);

/// "0.2.0"; lives for ever, ended by a zero.
COTERIE_C_API const char* coterie_version(void);
/// What the last call of this thread that did not return COTERIE_OK has to say, ended by a zero; lives until the next
/// such call of this thread.
COTERIE_C_API const char* coterie_last_error(void);

/// `size`: sizeof *options as the caller was compiled, which a later library keeps to.
COTERIE_C_API void coterie_load_defaults(coterie_load_options* options, size_t size);
COTERIE_C_API void coterie_generate_defaults(coterie_generate_options* options, size_t size);

/// coterie::Model::load. `options` may be null. *model is null after an error.
COTERIE_C_API coterie_status coterie_model_load(const char* path, const coterie_load_options* options,
                                                coterie_model** model);
COTERIE_C_API void coterie_model_free(coterie_model* model);
/// Sizes: positions, V, D, layers, parameters held and active for a token. 0 for a null model.
COTERIE_C_API int64_t coterie_model_context(const coterie_model* model);
COTERIE_C_API int64_t coterie_model_vocabulary(const coterie_model* model);
COTERIE_C_API int64_t coterie_model_width(const coterie_model* model);
COTERIE_C_API int64_t coterie_model_layers(const coterie_model* model);
COTERIE_C_API int64_t coterie_model_parameters(const coterie_model* model);
COTERIE_C_API int64_t coterie_model_active_parameters(const coterie_model* model);

COTERIE_C_API coterie_status coterie_tokenize(const coterie_model* model, const char* text, int32_t add_special,
                                              int32_t* ids, size_t capacity, size_t* count);
COTERIE_C_API coterie_status coterie_detokenize(const coterie_model* model, const int32_t* ids, size_t ids_count,
                                                char* text, size_t capacity, size_t* count);
/// The prompt that the model's chat template makes of the messages.
COTERIE_C_API coterie_status coterie_chat_prompt(const coterie_model* model, const coterie_message* messages,
                                                 size_t messages_count, char* text, size_t capacity, size_t* count);

/// coterie::Session: it keeps the model. *session is null after an error.
COTERIE_C_API coterie_status coterie_session_new(const coterie_model* model, coterie_session** session);
COTERIE_C_API coterie_status coterie_session_fork(const coterie_session* session, coterie_session** fork);
COTERIE_C_API void coterie_session_free(coterie_session* session);

/// Begins a text that continues the ids; coterie_step moves it on. `options` and `on_text` may be null.
COTERIE_C_API coterie_status coterie_session_start(coterie_session* session, const int32_t* ids, size_t ids_count,
                                                   const coterie_generate_options* options, coterie_on_text on_text,
                                                   void* user);
/// One step of all sessions that have not finished, together (coterie::step). What one of them meets is its own:
/// coterie_session_finish says COTERIE_FAILED, coterie_session_error why.
COTERIE_C_API coterie_status coterie_step(coterie_session* const* sessions, size_t count);
/// start, then steps until it has finished; returns what ended it where that was an error.
COTERIE_C_API coterie_status coterie_session_generate(coterie_session* session, const int32_t* ids, size_t ids_count,
                                                      const coterie_generate_options* options, coterie_on_text on_text,
                                                      void* user);
COTERIE_C_API coterie_finish coterie_session_finish(const coterie_session* session);
/// COTERIE_OK, or the status of what made the text fail, with coterie_last_error.
COTERIE_C_API coterie_status coterie_session_error(const coterie_session* session);
COTERIE_C_API void coterie_session_cancel(coterie_session* session);
/// The text so far, and its ids.
COTERIE_C_API coterie_status coterie_session_text(const coterie_session* session, char* text, size_t capacity,
                                                  size_t* count);
COTERIE_C_API coterie_status coterie_session_generated(const coterie_session* session, int32_t* ids, size_t capacity,
                                                       size_t* count);

/// Tokens whose cache is held; and forgets those from `length` on, with what is left in *left (may be null).
COTERIE_C_API int64_t coterie_session_length(const coterie_session* session);
COTERIE_C_API coterie_status coterie_session_truncate(coterie_session* session, int64_t length, int64_t* left);

/// Logits after each of the ids from `first` on: [T - first, V].
COTERIE_C_API coterie_status coterie_session_logits(coterie_session* session, const int32_t* ids, size_t ids_count,
                                                    int64_t first, float* logits, size_t capacity, size_t* count);
/// Natural logarithms of the probabilities of the ids from `first` on, at least 1: [T - first].
COTERIE_C_API coterie_status coterie_session_score(coterie_session* session, const int32_t* ids, size_t ids_count,
                                                   int64_t first, double* scores, size_t capacity, size_t* count);
/// After block `layer`, or with -1 after the final norm: [T, D].
COTERIE_C_API coterie_status coterie_session_hidden(coterie_session* session, const int32_t* ids, size_t ids_count,
                                                    int64_t layer, float* states, size_t capacity, size_t* count);
/// A null callback takes the one that is set away.
COTERIE_C_API coterie_status coterie_session_on_routing(coterie_session* session, coterie_on_routing callback,
                                                        void* user);

#ifdef __cplusplus
}
#endif

#endif
