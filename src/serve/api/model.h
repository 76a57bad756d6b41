#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/spec.h"
#include "runtime/ensemble_parts.h"
#include "runtime/sampler.h"
#include "serve/api/token_bytes.h"
#include "serve/request.h"
#include "text/tokenizer.h"

namespace coterie::serve {

/// A model as requests see it: all that is needed beside the scheduler that runs it. Not changed while serving.
struct ServedModel {
  explicit ServedModel(text::Tokenizer its_tokenizer) : tokenizer(std::move(its_tokenizer)), bytes(tokenizer) {}

  std::string name;  // in /v1/models and in answers
  std::vector<std::string> aliases;
  std::string path;
  int64_t created = 0;  // Unix time
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  TokenBytes bytes;
  int64_t context = 0, vocabulary = 0, width = 0, layers = 0;
  int64_t parameters = 0, file_bytes = 0;
  std::vector<int64_t> routed_layers;     // those with a router, ascending
  int64_t experts = 0;                    // of the layer that has most
  std::optional<models::ModelSpec> spec;  // by which what routers decide can be changed
  runtime::EnsembleParts gated;           // of an ensemble: the models that answer, whose layers are numbered through
  std::string gate;                       // how it weighs them: "token", "uniform"; empty for one model
  // For people who look at what routing costs; 0 where it is not known. Bytes of an expert of each routed layer, and
  // of everything that each token reads whatever its experts; of the machine, what its memory can deliver.
  std::vector<int64_t> expert_bytes;
  int64_t dense_bytes = 0;
  double read_bytes_per_second = 0;
  std::string fingerprint;  // of the model and what computes it

  // What a request that does not say otherwise gets.
  runtime::SamplerOptions sampler;
  std::optional<uint64_t> seed;
  int64_t max_tokens = 4096;
  bool ignore_end = false;
  std::string template_variables = "{}";  // JSON: what chat templates are given unless a request says otherwise
  bool keeps_states = false;              // it has recurrent states, copies of which are kept where turns end
  Request::Pooling pooling = Request::Pooling::mean;  // of embeddings
  bool lenient = false;                               // unknown fields are warned of, not refused

  /// The text of a token alone, for people: bytes that are not character become U+FFFD.
  std::string token_text(text::TokenId id) const;
  bool ends(text::TokenId id) const;
};

}  // namespace coterie::serve
