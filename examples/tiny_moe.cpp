// A Mixture-of-Experts language model, whole and from the top: one token goes in, logits for the next come out.
//
// This is Mixtral's forward pass, one token at a time, on the reference (scalar) kernels: no threads, no batches, no
// quantisation, nothing clever. The engine in src/ computes the same numbers; a test compares them.
//
//   tiny_moe FOLDER ID [ID ...]     FOLDER holds config.json and f32 safetensors of a (small) Mixtral
//
// For every id it says which experts each layer chose, with their weights, and what it thinks comes next.
//
// Letters: D model width, H query heads, G key/value heads, C width of a head, E experts, K experts per token,
//          F expert width, V vocabulary.
// Papers:  Mixtral of Experts (Jiang et al. 2024); GQA (Ainslie et al. 2023); RoPE (Su et al. 2021); SwiGLU (Shazeer
//          2020); RMSNorm (Zhang & Sennrich 2019); sparsely-gated mixtures of experts (Shazeer et al. 2017).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "kernels/table.h"

namespace {

using namespace coterie;
using Vector = std::vector<float>;

const kernels::KernelTable& reference() { return kernels::by_name("scalar"); }

// --- What the model is: a handful of numbers from config.json --------------------------------------------------------

struct Config {
  int64_t layers, width, heads, kv_heads, head, experts, experts_per_token, expert_width, vocabulary;
  float eps;
  double rope_base;
};

Config read_config(const std::string& folder) {
  const base::Json json = base::read_json(folder + "/config.json");
  base::JsonReader config(json, folder + "/config.json");
  if (config.string("model_type") != "mixtral")
    base::fail(base::ErrorKind::unsupported, config.where(), "this example reads model_type mixtral only");
  if (config.has("sliding_window"))
    base::fail(base::ErrorKind::unsupported, config.where(), "this example has no sliding window");
  Config c{};
  c.layers = config.integer("num_hidden_layers");
  c.width = config.integer("hidden_size");
  c.heads = config.integer("num_attention_heads");
  c.kv_heads = config.integer("num_key_value_heads");
  c.head = config.integer("head_dim", c.width / c.heads);
  c.experts = config.integer("num_local_experts");
  c.experts_per_token = config.integer("num_experts_per_tok");
  c.expert_width = config.integer("intermediate_size");
  c.vocabulary = config.integer("vocab_size");
  c.eps = static_cast<float>(config.number("rms_norm_eps"));
  const base::Json* rope = config.object("rope_parameters");  // newer configs nest it
  c.rope_base = rope ? base::JsonReader(*rope, config.where()).number("rope_theta") : config.number("rope_theta", 1e6);
  return c;
}

// --- Its weights: floats in a mapped file, found by name -------------------------------------------------------------

class Weights {
 public:
  explicit Weights(const std::string& folder) : source_(checkpoint::open_safetensors(folder)) {}

  // rows × cols floats, row by row: row r holds what output r multiplies the inputs with.
  const float* find(const std::string& name, int64_t rows, int64_t cols) const {
    const checkpoint::TensorInfo* tensor = source_->find(name);
    if (!tensor) base::fail(base::ErrorKind::not_found, source_->where(), "there is no tensor {}", name);
    if (tensor->dtype != tensor::DType::f32 || tensor::element_count(tensor->shape) != rows * cols)
      base::fail(base::ErrorKind::bad_input, name, "is {} {}, expected f32 [{}, {}]", tensor::name(tensor->dtype),
                 tensor::to_string(tensor->shape), rows, cols);
    return reinterpret_cast<const float*>(tensor->bytes.data());
  }

 private:
  std::unique_ptr<checkpoint::TensorSource> source_;
};

// --- The arithmetic everything is made of ----------------------------------------------------------------------------

// y = W x. W [outputs, inputs].
Vector multiply(const float* w, const Vector& x, int64_t outputs) {
  Vector y(static_cast<size_t>(outputs));
  const auto* row = reinterpret_cast<const std::byte*>(x.data());
  const auto& kernel = reference().matmul.exact[static_cast<size_t>(tensor::DType::f32)];
  kernels::MatmulTask task;
  task.weights = reinterpret_cast<const std::byte*>(w);
  task.dtype = tensor::DType::f32;
  task.rows = outputs, task.cols = static_cast<int64_t>(x.size());
  task.row_stride = task.cols * static_cast<int64_t>(sizeof(float));
  task.x = &row, task.tokens = 1;
  task.y = y.data(), task.y_stride = outputs;
  std::vector<std::byte> scratch(static_cast<size_t>(kernel.scratch_bytes(task.dtype, task.cols)) + 64);
  void* aligned = scratch.data();
  size_t space = scratch.size();
  task.scratch = static_cast<std::byte*>(std::align(64, scratch.size() - 64, aligned, space));
  kernel.run(task);
  return y;
}

// x / sqrt(mean(x²) + eps) * weight.
Vector rms_norm(const Vector& x, const float* weight, float eps) {
  Vector y(x.size());
  reference().vector.rms_norm(x.data(), weight, eps, 0, y.data(), static_cast<int64_t>(x.size()));
  return y;
}

void add(const Vector& x, Vector& y, float scale = 1) {
  reference().vector.add_scaled(x.data(), scale, y.data(), static_cast<int64_t>(y.size()));
}

// exp(x) / sum(exp(x)).
void softmax(Vector& x) { reference().vector.softmax(x.data(), static_cast<int64_t>(x.size())); }

// --- Attention: what earlier tokens have to say to this one ----------------------------------------------------------

// Keys and values of all tokens so far, one row a position: a token's are computed once and read by all that follow.
struct Cache {
  std::vector<Vector> keys, values;  // [positions][G * C]
};

// Rotates the pairs (i, i + C/2) of each head by position * base^(-2i/C): products of rotated queries and keys depend
// on how far apart two tokens are, not on where they are.
void rotate(const Config& c, Vector& x, int64_t position) {
  const int64_t half = c.head / 2;
  Vector frequency(static_cast<size_t>(half)), cosine(frequency), sine(frequency);
  for (int64_t i = 0; i < half; ++i)
    frequency[static_cast<size_t>(i)] =
        1.0f / static_cast<float>(std::pow(c.rope_base, static_cast<double>(2 * i) / static_cast<double>(c.head)));
  const auto& vector = reference().vector;
  vector.rope_angles(frequency.data(), static_cast<float>(position), 1, cosine.data(), sine.data(), half);
  for (size_t head = 0; head < x.size(); head += static_cast<size_t>(c.head))
    vector.rope_half(x.data() + head, cosine.data(), sine.data(), half);
}

Vector attention(const Config& c, const Weights& weights, const std::string& layer, const Vector& x, Cache& cache) {
  const int64_t position = static_cast<int64_t>(cache.keys.size()), kv_width = c.kv_heads * c.head;
  Vector q = multiply(weights.find(layer + "q_proj.weight", c.heads * c.head, c.width), x, c.heads * c.head);
  Vector k = multiply(weights.find(layer + "k_proj.weight", kv_width, c.width), x, kv_width);
  Vector v = multiply(weights.find(layer + "v_proj.weight", kv_width, c.width), x, kv_width);
  rotate(c, q, position);
  rotate(c, k, position);
  cache.keys.push_back(k), cache.values.push_back(v);

  Vector mixed(q.size(), 0.0f);
  for (int64_t head = 0; head < c.heads; ++head) {
    // Several query heads share one head of keys and values: the cache is H/G times smaller for it.
    const int64_t shared = head / (c.heads / c.kv_heads) * c.head;
    const float* query = q.data() + head * c.head;
    Vector score;  // over the positions so far: a token sees itself and what came before
    for (const Vector& key : cache.keys)
      score.push_back(std::inner_product(query, query + c.head, key.data() + shared, 0.0f) /
                      std::sqrt(static_cast<float>(c.head)));
    softmax(score);
    for (size_t p = 0; p < score.size(); ++p)
      for (int64_t i = 0; i < c.head; ++i)
        mixed[static_cast<size_t>(head * c.head + i)] += score[p] * cache.values[p][static_cast<size_t>(shared + i)];
  }
  return multiply(weights.find(layer + "o_proj.weight", c.width, c.heads * c.head), mixed, c.width);
}

// --- The mixture of experts: each token is worked on by the few experts that the router picks ------------------------

struct Choice {
  int64_t expert;
  float weight;
};

// p = softmax(W x); the K experts with the largest p; their p divided by the sum of them.
std::vector<Choice> route(const Config& c, const float* router, const Vector& x) {
  Vector p = multiply(router, x, c.experts);
  softmax(p);
  std::vector<Choice> choices;
  for (int64_t e = 0; e < c.experts; ++e) choices.push_back({e, p[static_cast<size_t>(e)]});
  // Equal ones in ascending order of expert, as in the engine: stable.
  std::stable_sort(choices.begin(), choices.end(),
                   [](const Choice& a, const Choice& b) { return a.weight > b.weight; });
  choices.resize(static_cast<size_t>(c.experts_per_token));
  float sum = 0;
  for (const Choice& choice : choices) sum += choice.weight;
  for (Choice& choice : choices) choice.weight /= sum;
  return choices;
}

// One expert is a SwiGLU network of its own: down(silu(gate x) * up x). Only the chosen ones are computed: this is why
// a model of 47 billion parameters costs what 13 billion cost.
Vector experts(const Config& c, const Weights& weights, const std::string& layer, const Vector& x,
               const std::vector<Choice>& choices) {
  Vector sum(x.size(), 0.0f);
  for (const Choice& choice : choices) {
    const std::string expert = layer + "experts." + std::to_string(choice.expert) + ".";
    Vector gate = multiply(weights.find(expert + "w1.weight", c.expert_width, c.width), x, c.expert_width);
    const Vector up = multiply(weights.find(expert + "w3.weight", c.expert_width, c.width), x, c.expert_width);
    reference().vector.activate(kernels::Activation::silu, gate.data(), up.data(), c.expert_width);
    add(multiply(weights.find(expert + "w2.weight", c.width, c.expert_width), gate, c.width), sum, choice.weight);
  }
  return sum;
}

// --- The model: blocks of the two, each added to the stream that runs through ----------------------------------------

class Model {
 public:
  explicit Model(const std::string& folder)
      : config(read_config(folder)), weights_(folder), caches_(static_cast<size_t>(config.layers)) {}

  // Logits [V] for what follows the tokens so far and this one.
  Vector next(int64_t id) {
    const float* table = weights_.find("model.embed_tokens.weight", config.vocabulary, config.width);
    Vector x(table + id * config.width, table + (id + 1) * config.width);
    chosen.clear();
    for (int64_t i = 0; i < config.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      const std::string moe = layer + "block_sparse_moe.";
      const Vector h = norm(x, layer + "input_layernorm.weight");
      add(attention(config, weights_, layer + "self_attn.", h, caches_[static_cast<size_t>(i)]), x);
      const Vector g = norm(x, layer + "post_attention_layernorm.weight");
      chosen.push_back(route(config, weights_.find(moe + "gate.weight", config.experts, config.width), g));
      add(experts(config, weights_, moe, g, chosen.back()), x);
    }
    const float* head = weights_.find("lm_head.weight", config.vocabulary, config.width);
    return multiply(head, norm(x, "model.norm.weight"), config.vocabulary);
  }

  const Config config;
  std::vector<std::vector<Choice>> chosen;  // [layers][K], for the last token

 private:
  Vector norm(const Vector& x, const std::string& name) const {
    return rms_norm(x, weights_.find(name, 1, config.width), config.eps);
  }

  Weights weights_;
  std::vector<Cache> caches_;
};

int run(int argc, char** argv) {
  Model model(argv[1]);
  for (int i = 2; i < argc; ++i) {
    char* end = nullptr;
    const int64_t id = std::strtoll(argv[i], &end, 10);
    if (*end != '\0' || id < 0 || id >= model.config.vocabulary)
      base::fail(base::ErrorKind::bad_input, argv[i], "is no id below {}", model.config.vocabulary);
    const Vector logits = model.next(id);
    std::cout << "id " << id;
    for (size_t layer = 0; layer < model.chosen.size(); ++layer) {
      std::cout << " | layer " << layer << ":";
      for (const Choice& choice : model.chosen[layer])
        std::cout << " expert " << choice.expert << " × " << fmt::format("{:.3f}", choice.weight);
    }
    const auto best = std::max_element(logits.begin(), logits.end());
    std::cout << " | next " << best - logits.begin() << fmt::format(" logit {:.6f}\n", *best);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: tiny_moe FOLDER ID [ID ...]\n";
    return 2;
  }
  try {
    return run(argc, argv);
  } catch (const base::Error& error) {
    std::cerr << "tiny_moe: " << error.what() << "\n";
    return base::exit_code(error.kind());
  }
}
