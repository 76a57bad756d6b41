#pragma once

#include <vector>

#include "checkpoint/tensor_sink.h"
#include "families/open.h"
#include "models/bound_decoder.h"

namespace coterie::families {

/// The head for multi-token prediction that the files of `model` hold, as a model of its own (ModelSpec::prediction):
/// the model's embedding and head, one block. Of several heads the first. Files have it as a layer after the last
/// (eh_proj, enorm, hnorm, shared_head.norm; GGUF: nextn.*) or under mtp.* (fc, pre_fc_norm_*, norm). Throws
/// unsupported where there is none, and what binding throws.
Model open_prediction_head(const Model& model);
/// The decoder of one, for whoever trains it beside its model: `head` keeps its files, and must outlive what stays
/// bound to them. Throws unsupported for a head with an embedding of its own, since it would be trained as the model's.
std::unique_ptr<models::BoundDecoder> take_head(Model& head);

/// What such a head of a model is, one of its own or one that is to be trained. Throws unsupported for a family whose
/// heads are of another form than one block, or read what an indexer chose.
models::ModelSpec prediction_spec(const models::ModelSpec& model);

/// The tensors of a head that was trained beside a model, under the names that the family's published files have for
/// them; its embedding and output embeddings are the model's and left out. `head` must outlive the use. Throws
/// unsupported where a head's names are not known, and bad_input where the model's config says that it has none, so
/// that nobody would look for it.
std::vector<checkpoint::TensorToWrite> prediction_tensors_to_write(const models::ModelSpec& model,
                                                                   const models::Decoder& head);
/// The same checks, before anything is trained.
void require_prediction_names(const models::ModelSpec& model);

}  // namespace coterie::families
