#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "families/names/name_table.h"
#include "layers/tensor_list.h"
#include "models/decoder.h"

namespace coterie::surgery {

/// What is known of a tensor of a file by the weights it is made of.
struct Role {
  std::string path;  // "blocks.3.moe.experts.down"; of several that the file has as one tensor, the last of the list
  layers::Place place = layers::Place::mixer;
  bool vector = false, one_row = false;
  int64_t items = 1;         // experts or heads that it is a stack of
  int64_t expert = -1;       // that it is one of, where the file has a tensor for each
  std::string pattern = {};  // of its name, with {layer} and {expert}
};
using Roles = std::map<std::string, Role, std::less<>>;

/// By the names that are written: the first of each in the table. Throws unsupported for a weight without a name.
Roles roles_to_write(const models::Decoder& decoder, const families::NameTable& names);
/// By the names that `source` has, of all that the table knows. Tensors that are not weights of the model (divisors of
/// frequencies, layers that take no part) have no role.
Roles roles_in(const checkpoint::TensorSource& source, const models::Decoder& decoder,
               const families::NameTable& names);

/// The tensors of `source` that a model made of it is to have: not those that nothing reads, nor a head that repeats
/// tied embeddings, as the library of the format leaves it out, too.
std::vector<const checkpoint::TensorInfo*> tensors_to_keep(const checkpoint::TensorSource& source,
                                                           const models::Decoder& decoder, bool tied_embeddings);

}  // namespace coterie::surgery
