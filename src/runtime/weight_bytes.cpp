#include "runtime/weight_bytes.h"

#include <cstdlib>
#include <numeric>
#include <string_view>

#include "layers/weight_names.h"

namespace coterie::runtime {

namespace {

using models::Place;

class Weigher : public layers::TensorReader {
 public:
  explicit Weigher(const models::ModelSpec& spec) : spec_(spec) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t, const tensor::Weight& weight) override {
    const bool looked_up = tensor.place == Place::input_embeddings && !spec_.tied_embeddings;
    add(tensor.place, weight.bytes(), looked_up ? weight.bytes() / rows : weight.bytes());
  }
  void vector(const Tensor& tensor, int64_t, const layers::Vector& vector) override {
    const int64_t bytes = vector.values.size() * static_cast<int64_t>(sizeof(float));
    add(tensor.place, bytes, bytes);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t, int64_t,
             const std::vector<tensor::Weight>& weights) override {
    int64_t bytes = 0;
    for (const tensor::Weight& weight : weights) bytes += weight.bytes();
    add(tensor.place, bytes,
        tensor.place == Place::experts ? bytes / experts * touched_experts(tensor.path, experts) : bytes);
  }

  WeightBytes result;

 private:
  void add(Place place, int64_t held, int64_t touched) {
    result.held[static_cast<size_t>(place)] += held;
    result.touched[static_cast<size_t>(place)] += touched;
  }

  // Canonical paths begin with "blocks.N.". Of an ensemble, whose models have blocks of the same numbers, all that is
  // not known to be fewer.
  int64_t touched_experts(std::string_view path, int64_t experts) const {
    const std::string number(path.substr(path.find('.') + 1));
    const auto& block = spec_.blocks.at(static_cast<size_t>(std::strtoll(number.c_str(), nullptr, 10)));
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    return moe ? std::min(moe->router.experts_per_token, experts) : experts;
  }

  const models::ModelSpec& spec_;
};

int64_t sum(const std::array<int64_t, models::kPlaces>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

}  // namespace

int64_t WeightBytes::all_held() const { return sum(held); }
int64_t WeightBytes::all_touched() const { return sum(touched); }

int64_t WeightBytes::touched_with(double expert_share) const {
  constexpr auto kExperts = static_cast<size_t>(Place::experts);
  return all_touched() - touched[kExperts] + static_cast<int64_t>(expert_share * static_cast<double>(held[kExperts]));
}

int64_t bytes_of_rank(const models::Decoder& decoder, const OwnWeights& own) {
  struct OfRank final : layers::TensorReader {
    explicit OfRank(const OwnWeights& own_) : own(own_) {}
    void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight& weight) override {
      add(tensor, rows, cols, weight);
    }
    void vector(const Tensor&, int64_t, const layers::Vector& vector) override {
      bytes += vector.values.size() * static_cast<int64_t>(sizeof(float));
    }
    void stack(const Tensor& tensor, int64_t, int64_t rows, int64_t cols,
               const std::vector<tensor::Weight>& weights) override {
      for (const tensor::Weight& weight : weights) add(tensor, rows, cols, weight);
    }
    void add(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight& weight) {
      if (!own.has_layer(layers::layer_of(tensor.path))) return;
      bytes += rows > 0 ? weight.bytes() / rows * own.rows.own_rows(rows, cols, 1).size() : 0;
    }
    const OwnWeights& own;
    int64_t bytes = 0;
  } reader(own);
  decoder.read(reader);
  return reader.bytes;
}

WeightBytes weight_bytes(const models::Decoder& decoder) {
  Weigher weigher(decoder.spec());
  decoder.read(weigher);
  return weigher.result;
}

}  // namespace coterie::runtime
