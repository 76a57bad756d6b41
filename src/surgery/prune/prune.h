#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "families/open.h"
#include "lens/saliency.h"

namespace coterie::surgery {

using lens::ExpertSaliency;

/// The experts of each layer that stay, ascending.
using KeptExperts = std::map<int64_t, std::vector<int64_t>>;

/// The `keep` most salient experts of each layer; of routers with groups as many of each group. `uneven`: as many in
/// all, but taken where they matter: layers are compared by saliencies divided by the layer's sum, and none goes below
/// the number a token takes. Ties go to the lower number. Refuses a model without routers, routers that do not choose
/// the best k, fewer experts than a token takes or more than there are, and groups that `keep` does not fill evenly.
KeptExperts choose_experts(const models::ModelSpec& spec, const std::map<int64_t, ExpertSaliency::Layer>& layers,
                           int64_t keep, bool uneven);

struct Pruned {
  int64_t tensors = 0, file_bytes = 0, parameters_before = 0, parameters_after = 0;
  std::vector<std::string> notes;
};

/// Refuses, before anything is computed, what prune would refuse of `out` and, where the numbers differ by layer
/// (`uneven`), of folders.
void check_pruned_form(const families::Model& model, const std::filesystem::path& out, bool uneven);

/// Writes the model with these experts only, in the form it has: a GGUF file from a GGUF, a folder from a folder. The
/// bytes of what stays are the source's, whatever their format; the router loses the rows of those that go. Numbers of
/// experts that differ by layer are for GGUF: a config.json has one number for all layers. Refuses a form that is not
/// the source's, and what convert refuses of places to write to.
Pruned prune(const families::Model& model, const KeptExperts& kept, const std::filesystem::path& out,
             const std::function<void(std::string_view tensor, int64_t done, int64_t all)>& on_progress = {});

}  // namespace coterie::surgery
