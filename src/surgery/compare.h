#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "families/open.h"
#include "models/decoder.h"
#include "ops/context.h"
#include "surgery/write/model_folder.h"

namespace coterie::surgery {

/// What two models make of the same tokens.
struct Comparison {
  int64_t tokens = 0;
  double largest = 0;                      // |difference| of a logit
  double spread = 0;                       // from the smallest to the largest logit of the first model
  double divergence = 0;                   // mean KL(first || second) of the next token, nats
  double same_best = 0;                    // share of positions with the same best token
  double first_loss = 0, second_loss = 0;  // mean cross-entropy of the tokens that come, nats

  /// The largest difference as a share of the spread.
  double relative() const { return spread > 0 ? largest / spread : largest; }
};

/// Runs both on the tokens, in pieces from an empty cache, in the context's precision. `on_progress` is called before
/// each piece and may throw to stop. Throws bad_input when they have not the same vocabulary or there are no tokens.
Comparison compare(ops::Context& context, const models::Decoder& first, const models::Decoder& second,
                   std::span<const int32_t> ids, const OnProgress& on_progress = {});
base::Json to_json(const Comparison& comparison);

/// At most `count` tokens to compare on: of `text`, or of a few sentences where that is empty; random ones for a model
/// without a tokenizer.
std::vector<int32_t> tokens_to_compare(const families::Model& model, const std::string& text, int64_t count);

}  // namespace coterie::surgery
