#pragma once

#include <stddef.h>
#include <stdint.h>

// The C ABI of the Rust static library in this folder. Only src/text includes it.
//
// Every function that can fail returns 0 for success, 1 for bad input and 2 for a bug (a panic that was caught), and
// writes a sentence into `error`. Buffers filled by Rust are freed with coterie_bytes_free / coterie_ids_free, whether
// the call succeeded or not; they start zeroed.
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CoterieSlice {
  const char* data;
  size_t size;
} CoterieSlice;

typedef struct CoterieBytes {
  char* data;
  size_t size, capacity;
} CoterieBytes;

typedef struct CoterieIds {
  uint32_t* data;
  size_t size, capacity;
} CoterieIds;

void coterie_bytes_free(CoterieBytes bytes);
void coterie_ids_free(CoterieIds ids);

typedef struct CoterieTokenizer CoterieTokenizer;

// From the text of a tokenizer.json. `extra_tokens` is a JSON array of {id?, content, special, ...} that must be known
// beside it (tokenizer_config.json), or an empty slice.
int32_t coterie_tokenizer_from_json(CoterieSlice json, CoterieSlice extra_tokens, CoterieTokenizer** out,
                                    CoterieBytes* error);
// A BPE tokenizer from its vocabulary in the order of the ids. `parts` is a JSON object {normalizer, pre_tokenizer,
// post_processor, decoder, byte_fallback, fuse_unk, unk_token, ignore_merges, added: [{id, special}]}. With `scores`
// (n_tokens of them) the merges are made from the scores and `merges` must be empty.
int32_t coterie_tokenizer_build(CoterieSlice parts, const CoterieSlice* tokens, size_t n_tokens,
                                const CoterieSlice* merges, size_t n_merges, const float* scores,
                                CoterieTokenizer** out, CoterieBytes* error);
void coterie_tokenizer_free(CoterieTokenizer* tokenizer);

int32_t coterie_tokenizer_encode(const CoterieTokenizer* tokenizer, CoterieSlice text, int32_t add_special,
                                 CoterieIds* ids, CoterieBytes* error);
int32_t coterie_tokenizer_decode(const CoterieTokenizer* tokenizer, const uint32_t* ids, size_t n, int32_t skip_special,
                                 CoterieBytes* text, CoterieBytes* error);
// One more than the largest id.
size_t coterie_tokenizer_size(const CoterieTokenizer* tokenizer);
// `found` is 0 for an id without a token.
int32_t coterie_tokenizer_token(const CoterieTokenizer* tokenizer, uint32_t id, CoterieBytes* token, int32_t* found,
                                CoterieBytes* error);
// -1 for a string that is not a token.
int64_t coterie_tokenizer_id(const CoterieTokenizer* tokenizer, CoterieSlice token);
int32_t coterie_tokenizer_is_special(const CoterieTokenizer* tokenizer, uint32_t id);
// The text of a tokenizer.json.
int32_t coterie_tokenizer_json(const CoterieTokenizer* tokenizer, CoterieBytes* json, CoterieBytes* error);

// Makes a vocabulary from texts. `recipe` is a JSON object {kind: "bytes" | "characters" | "bpe", vocabulary,
// min_frequency, special: [...]}; `json` becomes the text of a tokenizer.json.
int32_t coterie_tokenizer_train(CoterieSlice recipe, const CoterieSlice* texts, size_t n_texts, CoterieBytes* json,
                                CoterieBytes* error);

// The bytes of every token, prepared for constraints. It keeps what it needs of the tokenizer.
typedef struct CoterieVocabulary CoterieVocabulary;

// `ends`: the tokens that end a text; may be none.
int32_t coterie_vocabulary_new(const CoterieTokenizer* tokenizer, const uint32_t* ends, size_t n_ends,
                               CoterieVocabulary** out, CoterieBytes* error);
void coterie_vocabulary_free(CoterieVocabulary* vocabulary);
// The bytes that a token stands for; 0xFF and its name where it is special.
int32_t coterie_vocabulary_bytes(const CoterieVocabulary* vocabulary, uint32_t id, CoterieBytes* bytes,
                                 CoterieBytes* error);

// What a grammar lets through. One is used by one thread at a time; a copy is independent of what it was made of.
typedef struct CoterieConstraint CoterieConstraint;

// `kind` is 0 for a JSON schema, 1 for a regular expression of the whole text, 2 for a Lark grammar.
int32_t coterie_constraint_new(const CoterieVocabulary* vocabulary, int32_t kind, CoterieSlice text,
                               CoterieConstraint** out, CoterieBytes* error);
// Checks a JSON schema as coterie_constraint_new does and gives it as it can stand after %json in a Lark grammar.
int32_t coterie_schema_prepare(const CoterieVocabulary* vocabulary, CoterieSlice schema, CoterieBytes* prepared,
                               CoterieBytes* error);
int32_t coterie_constraint_clone(const CoterieConstraint* constraint, CoterieConstraint** out, CoterieBytes* error);
void coterie_constraint_free(CoterieConstraint* constraint);
// Bit id % 32 of bits[id / 32] is set where the token may come next.
int32_t coterie_constraint_mask(CoterieConstraint* constraint, uint32_t* bits, size_t n_words, CoterieBytes* error);
int32_t coterie_constraint_accept(CoterieConstraint* constraint, const uint32_t* ids, size_t n, CoterieBytes* error);
// The tokens that alone can come next.
int32_t coterie_constraint_forced(CoterieConstraint* constraint, CoterieIds* ids, CoterieBytes* error);
int32_t coterie_constraint_rollback(CoterieConstraint* constraint, size_t n, CoterieBytes* error);
// `complete`: the text may end here; `finished`: it must.
int32_t coterie_constraint_state(CoterieConstraint* constraint, int32_t* complete, int32_t* finished,
                                 CoterieBytes* error);

typedef struct CoterieTemplate CoterieTemplate;

// Parses a chat template.
int32_t coterie_template_new(CoterieSlice source, CoterieTemplate** out, CoterieBytes* error);
void coterie_template_free(CoterieTemplate* chat_template);
// `messages` is a JSON array of objects, `special` and `extra` are JSON objects of further variables; what `extra` says
// wins. The order of keys is kept.
int32_t coterie_template_render(const CoterieTemplate* chat_template, CoterieSlice messages, CoterieSlice special,
                                CoterieSlice extra, int32_t add_generation_prompt, CoterieBytes* text,
                                CoterieBytes* error);

#ifdef __cplusplus
}
#endif
