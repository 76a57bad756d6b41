#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "surgery/merge/merge_math.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

/// A number of a recipe, by layer and by tensor: a number; a list, along which layers are interpolated from the first
/// to the last; or a list of {filter, value}, of which the first whose filter is part of the tensor's name counts (no
/// filter or "*": any name).
class MergeSetting {
 public:
  MergeSetting() = default;
  /// Throws bad_input for anything else.
  MergeSetting(const base::Json& json, const std::string& where);

  /// Throws bad_input, naming the number, when one is outside of [least, most].
  void expect(double least, double most, std::string_view where) const;
  /// `place` is 0 in the first layer, 1 in the last. Nothing where no filter fits.
  std::optional<double> at(std::string_view tensor, double place) const;

 private:
  struct Choice {
    std::string filter;            // empty: any
    std::vector<double> gradient;  // one number, or several along the layers
  };
  std::vector<Choice> choices_;
};

/// Settings under `parameters`.
struct MergeParameters {
  std::optional<MergeSetting> weight, density, t, gamma, epsilon, scale;
};

/// A run of layers and what each model brings to it. A passthrough has one source, whose layers [first, end) come after
/// those of the slice before; elsewhere layers keep their numbers.
struct MergeSlice {
  struct Source {
    std::string model;
    MergeParameters parameters;
    std::string where;
  };
  int64_t first = 0, end = -1;  // layers [first, end); -1: all there are
  std::vector<Source> sources;
  MergeParameters parameters;
};

/// mergekit's recipe of a whole-model merge: merge_method, base_model, models or slices, parameters, dtype.
struct MergeRecipe {
  MergeRule rule;
  std::string base_model;  // empty: none (linear, passthrough)
  std::vector<MergeSlice> slices;
  MergeParameters parameters;
  std::optional<tensor::DType> dtype;
  std::vector<std::string> notes;
};

/// The keys that a recipe may have.
std::vector<std::string> merge_recipe_keys();
/// Throws bad_input naming the key, with the nearest known one for one that is misspelt, and for parameters that the
/// method has not (a density of linear); unsupported, by name, for methods and forms that are not merged here.
MergeRecipe read_merge_recipe(const base::Json& recipe, const std::string& where);

}  // namespace coterie::surgery
