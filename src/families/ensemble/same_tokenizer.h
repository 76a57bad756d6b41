#pragma once

#include "families/open.h"

namespace coterie::families {

/// Throws unsupported where the two do not turn text into the same ids: another number of tokens, another token under
/// an id, or other ids for one of text::telling_texts(); and bad_input, naming it, for a model without a tokenizer
/// beside one that has one.
void require_same_tokenizer(const Model& a, const Model& b);

}  // namespace coterie::families
