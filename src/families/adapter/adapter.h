#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "families/adapter/adapter_modules.h"
#include "layers/tensor_list.h"
#include "models/decoder.h"
#include "models/parameters.h"
#include "tensor/buffer.h"

namespace coterie::families {

/// What a new adapter is to be.
struct LoraSpec {
  std::vector<std::string> targets;  // words of adapter_targets()
  int64_t rank = 16;
  double alpha = 32;    // what A and B add is multiplied by alpha / rank …
  bool rslora = false;  // … or alpha / √rank (Kalajdzievski 2023, arXiv:2312.03732)
  bool dora = false;    // with a magnitude for each output (Liu et al. 2024, arXiv:2402.09353)
  double dropout = 0;   // of what A reads, in training
};

/// Low-rank matrices that are added to the weights of a model, which stay as they are (LoRA, Hu et al. 2021,
/// arXiv:2106.09685), in the files of the peft library: adapter_config.json and adapter_model.safetensors.
///
/// A decoder that an adapter is attached to points into it: the adapter must outlive it. Everything is f32.
class Adapter {
 public:
  /// A at random, uniform within ±1/√inputs as peft draws it, B zero: it changes no bit of the model. Throws bad_input
  /// for a target that matches nothing in this model, naming those that do, and for a rank below 1; unsupported for
  /// dropout or magnitudes on stacks of experts and on routers that are parameters, which peft refuses to load.
  static Adapter fresh(const models::Decoder& decoder, const LoraSpec& spec, uint64_t seed);
  /// From a folder as peft or save() wrote it. Throws not_found, and bad_input or unsupported naming file and key, for
  /// tensors that this model has no place for, of other shapes, or missing, and for options that are not honoured here.
  static Adapter load(const models::Decoder& decoder, const std::filesystem::path& folder);

  /// Points the decoder's adapters at this adapter; what is added is multiplied by `factor`, which must be 1 with
  /// magnitudes. Throws bad_input when one of the weights has an adapter already.
  void attach_to(models::Decoder& decoder, double factor = 1);
  /// The norms of W + scale · B·A, after A or B were changed. Does nothing without magnitudes.
  void renew();

  /// Writes the folder's two files, each under a temporary name until it is whole. `base` is what the config names as
  /// the model. Throws io.
  void save(const std::filesystem::path& folder, const std::string& base) const;

  /// A, B and magnitudes as parameters ("blocks.3.attention.q.lora_a"), without gradients of their own yet.
  std::vector<models::Parameter> parameters();
  /// How many there are at each place.
  std::array<int64_t, layers::kPlaces> counts() const;
  /// Their closed form, from the shapes alone.
  static std::array<int64_t, layers::kPlaces> counts(const models::Decoder& decoder, const LoraSpec& spec);
  const LoraSpec& spec() const { return spec_; }

 private:
  struct Module {
    AdapterModule module;
    int64_t rank = 0;
    double alpha = 0;
    float scale = 0;
    tensor::Buffer<float> a, b;             // [stack, r, inputs], [stack, outputs, r]
    tensor::Buffer<float> magnitude, norm;  // [outputs], or empty
    std::vector<tensor::Weight> weights;    // of the pieces, for the norms
  };
  Adapter() = default;
  void make(const AdapterModule& module, int64_t rank, double alpha);
  void find_norms(Module& module) const;

  friend class AdapterReader;
  LoraSpec spec_;
  std::vector<Module> modules_;
};

}  // namespace coterie::families
