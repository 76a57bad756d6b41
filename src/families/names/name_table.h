#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/view.h"

namespace coterie::families {

/// Which part of the tensor in the file a weight is, along its rows (the last but one dimension).
enum class Piece {
  whole,
  first_half,   // gate of a merged [2F, D] gate-up, gate rows first
  second_half,  // up of it
  even_rows,    // gate of a merged gate-up whose rows alternate
  odd_rows,     // up of it
  front,        // q of a fused [q + k + v, D]: as many of its first rows as the weight has
  before_back,  // k of it: as many rows before as many last ones
  back,         // v of it: as many of its last rows
  // A part of a stack whose items each hold two weights, the keys' rows first (kv_b of latent attention): the keys'
  // rows, with rows and columns exchanged, and the values'.
  head_keys,
  head_values,
  // Of a tensor whose rows come in groups that hold rows of two weights each (ListedTensor::parts groups,
  // merged_with rows of the other weight in each): those first in each group, or last.
  group_front,
  group_back,
  // The same, first, and its rows in a group are a query, a key and values, as many as the other weight's; the weight
  // has all queries first, then all keys, then all values (Qwen3-Next).
  group_qkv,
};

/// How the dimensions of a weight lie in the file, whose values are in the same order in each case.
enum class Form {
  plain,     // [rows, cols] or [n]
  in_parts,  // [parts, rows / parts, cols] or [parts, n / parts]: the layer says how many (ListedTensor)
  filters,   // [rows, 1, cols]: PyTorch's taps of a convolution that keeps channels apart
  column,    // [n, 1]
  // As named, where writers do not agree on dimensions of one: read with any of them.
  loose_filters,  // [rows, 1, cols]
  loose_column,   // [n, 1]
  loose_heads,    // [1, 1, n, 1]
  // Stacks of experts whose values lie in another order; binding copies them:
  transposed,        // [E, cols, rows], floats (gpt-oss)
  rows_together,     // [E * rows, cols], in the usual order (DBRX)
  columns_together,  // [E * cols, rows]: transposed
  mxfp4_pair,  // [E, rows, cols / 32, 16] nibbles of two neighbours a byte, under a name that ends in _blocks, and
               // [E, rows, cols / 32] exponents under the same with _scales (gpt-oss as published)
};

/// One way a file may name a weight. The pattern holds {layer} where the canonical path has a number (or {half_layer}
/// and {odd}, where two blocks are a layer of the file: half of it, and which of them it is), and {expert}
/// when each expert is a tensor of its own; without {expert} a stack of experts is one tensor with E as its first
/// dimension.
struct NameInFile {
  std::string pattern;
  Piece piece = Piece::whole;
  bool minus_exp = false;  // the file holds -exp of the parameter
  Form form = Form::plain;
  bool negated = false;  // … and the negative of that: exp (Ling 3's GGUF)
};

/// What a family's files call the tensors of layers/: canonical path ("blocks.{layer}.moe.experts.gate") to the names
/// to look for, in this order; the first is the one that is written.
struct NameTable {
  std::map<std::string, std::vector<NameInFile>, std::less<>> names;
  /// Tensors that a file may hold beside these and that change nothing. {layer} stands for any number, * for anything.
  std::vector<std::string> inert;

  /// nullptr when the table has no such path.
  const std::vector<NameInFile>* find(std::string_view path_pattern) const;
  bool is_inert(std::string_view name) const;
};

inline bool is_loose(Form form) {
  return form == Form::loose_filters || form == Form::loose_column || form == Form::loose_heads;
}

/// The shape in the file of a weight that is [rows, cols] or [n] and comes in `parts`.
tensor::Shape shape_in_file(Form form, const tensor::Shape& shape, int64_t parts);

/// "blocks.3.moe.router" → "blocks.{layer}.moe.router" and 3; a second number becomes {item}. Paths without a number
/// come back as they are, with -1.
struct PathPattern {
  std::string pattern;
  int64_t layer = -1, item = -1;
};
PathPattern path_pattern(std::string_view path);

/// Puts the numbers in; {expert} stays where `expert` is -1.
std::string expand(std::string_view pattern, int64_t layer, int64_t expert = -1, int64_t item = -1);

/// Names what a layer holds as one that stands elsewhere: in each name of a path "blocks.{layer}.PART", what there is
/// up to "{layer}." becomes prefix(PART).
void move_layer(NameTable& table, const std::function<std::string(std::string_view part)>& prefix);

// Building blocks of the tables.

/// Hugging Face: model.embed_tokens, model.layers.{layer}.{input_layernorm, self_attn.*, post_attention_layernorm,
/// mlp.*}, model.norm, lm_head.
NameTable hugging_face_names();
/// … and a MoE below model.layers.{layer}.`block` ("mlp", "block_sparse_moe") with expert projections of the given
/// names; the stacked tensors that transformers 5 holds in memory are accepted too.
NameTable hugging_face_moe_names(const std::string& block, const std::string& gate, const std::string& up,
                                 const std::string& down);
/// GGUF: token_embd, blk.{layer}.*, output_norm, output; one table for all architectures (Family::adjust_gguf_names for
/// those that differ).
NameTable gguf_names();

}  // namespace coterie::families
