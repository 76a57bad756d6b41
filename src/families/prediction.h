#pragma once

#include "families/open.h"

namespace coterie::families {

/// The head for multi-token prediction that the files of `model` hold, as a model of its own (ModelSpec::prediction):
/// the model's embedding and head, one block. Of several heads the first. Files have it as a layer after the last
/// (eh_proj, enorm, hnorm, shared_head.norm; GGUF: nextn.*) or under mtp.* (fc, pre_fc_norm_*, norm). Throws
/// unsupported where there is none, and what binding throws.
Model open_prediction_head(const Model& model);

}  // namespace coterie::families
