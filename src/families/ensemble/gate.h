#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "layers/observer.h"

namespace coterie::families {

/// Several whole models, each an expert, and what decides between them: Jacobs, Jordan, Nowlan & Hinton 1991, "Adaptive
/// Mixtures of Local Experts": p(y | x) = Σ_i g_i(x) p_i(y | x), with g = softmax of a linear map of x. Here x is what
/// one of the models, the reader, makes of the text: its residual stream after the last block, divided by its root mean
/// square.
struct Gate {
  enum class Kind {
    prompt,   // one choice for each prompt, of the mean of x over its tokens
    token,    // weights for each token that comes, of x at the token before it
    uniform,  // 1/N for each model, always
  };
  Kind kind = Kind::uniform;
  int64_t top_k = 1;                          // models that get a weight; the others' is 0
  double temperature = 1;                     // the gate's logits are divided by it
  int64_t reader = 0;                         // the number of the model that reads
  std::vector<std::filesystem::path> models;  // folders or GGUF files; relative to the gate's folder
  std::vector<std::vector<float>> rows;       // [N][D], D of the reader; none for a uniform gate
  std::vector<float> bias;                    // [N]

  int64_t count() const { return std::ssize(models); }
  bool reads() const { return kind != Kind::uniform; }
};
inline constexpr std::string_view kGateKinds[] = {"prompt", "token", "uniform"};
std::string_view name(Gate::Kind kind);
/// Throws bad_input for another word, with the nearest.
Gate::Kind gate_kind(const std::string& word, std::string_view where);
/// Throws bad_input, naming the key, for numbers that do not go together.
void check(const Gate& gate, std::string_view where);

/// Whether the path is a folder that `coterie gate` wrote.
bool is_ensemble(const std::filesystem::path& path);
/// What to call it: the folder's name.
std::string gate_name(const std::filesystem::path& folder);
/// Reads gate.json and gate.safetensors. Throws bad_input, naming the key or the tensor, for what is not a gate.
Gate read_gate(const std::filesystem::path& folder);
/// gate.json
base::Json to_json(const Gate& gate);

/// The weights [N] for a state [D]: softmax((W x + b) / temperature) over the top_k largest of these, of equal ones the
/// first. `x` is divided by its root mean square already. With `all`, over all of them.
std::vector<double> gate_weights(const Gate& gate, std::span<const double> x, bool all = false);

/// Listens to the reader, which has so many layers, and hands on each row of x: what a gate reads.
class GateReader : public layers::Observer {
 public:
  using OnRow = std::function<void(int64_t row, std::span<const double> x)>;
  GateReader(int64_t layers, OnRow row) : last_(layers - 1), row_(std::move(row)) {}
  void block(int64_t layer, tensor::ConstMatrix x) override;

 private:
  int64_t last_;
  OnRow row_;
  std::vector<double> scaled_;
};

}  // namespace coterie::families
