#include "lens/information.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::lens {

namespace {

/// n log n for the whole numbers, from a table.
class Logs {
 public:
  explicit Logs(int64_t most) : values_(static_cast<size_t>(most) + 2) {
    for (size_t n = 2; n < values_.size(); ++n) values_[n] = static_cast<double>(n) * std::log(static_cast<double>(n));
  }
  double of(int32_t n) const { return values_[static_cast<size_t>(n)]; }

 private:
  std::vector<double> values_;
};

/// Counts of experts, classes and pairs, and the sums of n log n over them, kept while pairs come and go.
class Table {
 public:
  Table(const Logs& logs, int64_t width, int64_t classes)
      : logs_(logs),
        width_(width),
        expert_(static_cast<size_t>(width)),
        class_(static_cast<size_t>(classes)),
        pair_(static_cast<size_t>(width * classes)) {}

  void clear() {
    std::fill(expert_.begin(), expert_.end(), 0), std::fill(class_.begin(), class_.end(), 0);
    std::fill(pair_.begin(), pair_.end(), 0);
    experts_ = classes_ = pairs_ = 0, n_ = 0;
  }
  void add(int32_t expert, int32_t label, int32_t by = 1) {
    const auto move = [&](int32_t& count, double& sum) {
      sum -= logs_.of(count);
      sum += logs_.of(count += by);
    };
    move(expert_[static_cast<size_t>(expert)], experts_);
    move(class_[static_cast<size_t>(label)], classes_);
    move(pair_[static_cast<size_t>(label * width_ + expert)], pairs_);
    n_ += by;
  }
  int64_t count() const { return n_; }
  double entropy() const { return n_ > 0 ? std::log(static_cast<double>(n_)) - classes_ / static_cast<double>(n_) : 0; }
  double information() const {
    if (n_ == 0) return 0;
    const auto n = static_cast<double>(n_);
    return std::max(0.0, std::log(n) + (pairs_ - experts_ - classes_) / n);
  }

 private:
  const Logs& logs_;
  int64_t width_, n_ = 0;
  std::vector<int32_t> expert_, class_, pair_;
  double experts_ = 0, classes_ = 0, pairs_ = 0;
};

/// A random order of 0 … n - 1.
std::vector<int64_t> shuffled(int64_t n, base::Rng& rng) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(static_cast<uint32_t>(i))]);
  return order;
}

std::vector<int32_t> permuted(const Labels& labels, Documents documents, base::Rng& rng) {
  const int64_t n = std::ssize(labels.of), count = std::ssize(documents) - 1;
  std::vector<int32_t> result(labels.of.size());
  if (labels.permuted == Labels::Permuted::documents) {
    const std::vector<int64_t> order = shuffled(count, rng);
    for (int64_t d = 0; d < count; ++d) {
      const int64_t from = documents[static_cast<size_t>(order[static_cast<size_t>(d)])];
      std::fill(result.begin() + documents[static_cast<size_t>(d)],
                result.begin() + documents[static_cast<size_t>(d) + 1], labels.of[static_cast<size_t>(from)]);
    }
    return result;
  }
  if (labels.permuted == Labels::Permuted::stretches) {
    // Stretches do not cross the end of a document; each takes the label of another's beginning.
    std::vector<int64_t> begins;
    for (int64_t d = 0; d < count; ++d)
      for (int64_t t = documents[static_cast<size_t>(d)]; t < documents[static_cast<size_t>(d) + 1]; t += kStretch)
        begins.push_back(t);
    const std::vector<int64_t> order = shuffled(std::ssize(begins), rng);
    begins.push_back(n);
    for (size_t i = 0; i < order.size(); ++i)
      std::fill(result.begin() + begins[i], result.begin() + begins[i + 1],
                labels.of[static_cast<size_t>(begins[static_cast<size_t>(order[i])])]);
    return result;
  }
  const std::vector<int64_t> order = shuffled(count, rng);
  int64_t at = n > 0 ? static_cast<int64_t>(rng.uniform_double() * static_cast<double>(n)) : 0;
  for (const int64_t d : order)
    for (int64_t t = documents[static_cast<size_t>(d)]; t < documents[static_cast<size_t>(d) + 1]; ++t) {
      result[static_cast<size_t>(at)] = labels.of[static_cast<size_t>(t)];
      if (++at == n) at = 0;
    }
  return result;
}

}  // namespace

Information mutual_information(std::span<const int16_t> experts, int64_t stride, int64_t places, int64_t width,
                               const Labels& labels, Documents documents, int64_t permutations, uint64_t seed) {
  const int64_t n = std::ssize(labels.of);
  base::require(
      n > 0 && std::ssize(experts) == n * stride && places <= stride && documents.size() >= 2 && documents.back() == n,
      "mutual_information", "{} labels for {} experts a row of {} in {} documents", n, experts.size(), stride,
      documents.size());
  const Logs logs(n);
  Table table(logs, width, labels.classes);
  const auto fill = [&](const std::vector<int32_t>& of, int64_t place) {
    table.clear();
    for (int64_t t = 0; t < n; ++t) {
      const int16_t expert = experts[static_cast<size_t>(t * stride + place)];
      if (expert >= 0 && of[static_cast<size_t>(t)] >= 0) table.add(expert, of[static_cast<size_t>(t)]);
    }
  };
  Information result;
  constexpr int64_t kGroups = 20;
  const int64_t count = std::ssize(documents) - 1, groups = std::min(kGroups, count);
  std::vector<double> without(static_cast<size_t>(groups)), entropies(without.size());
  int64_t used = 0;
  for (int64_t place = 0; place < places; ++place) {
    fill(labels.of, place);
    if (table.count() == 0) continue;
    ++used;
    result.nats += table.information(), result.entropy += table.entropy(),
        result.tokens = std::max(result.tokens, table.count());
    for (int64_t g = 0; groups > 1 && g < groups; ++g) {
      const auto move = [&](int32_t by) {
        for (int64_t d = g; d < count; d += groups)
          for (int64_t t = documents[static_cast<size_t>(d)]; t < documents[static_cast<size_t>(d) + 1]; ++t) {
            const int16_t expert = experts[static_cast<size_t>(t * stride + place)];
            const int32_t label = labels.of[static_cast<size_t>(t)];
            if (expert >= 0 && label >= 0) table.add(expert, label, by);
          }
      };
      move(-1);
      without[static_cast<size_t>(g)] += table.information(), entropies[static_cast<size_t>(g)] += table.entropy();
      move(1);
    }
  }
  if (used == 0 || result.entropy <= 0) return result;
  int64_t as_much = 0;
  base::Rng rng(seed);
  for (int64_t p = 0; p < permutations; ++p) {
    const std::vector<int32_t> of = permuted(labels, documents, rng);
    double sum = 0;
    for (int64_t place = 0; place < places; ++place) fill(of, place), sum += table.information();
    result.permuted += sum, as_much += sum >= result.nats;
  }
  const auto each = static_cast<double>(used);
  result.nats /= each, result.entropy /= each;
  if (permutations > 0) result.permuted /= each * static_cast<double>(permutations);
  result.normalised = (result.nats - result.permuted) / result.entropy;
  result.p_value = static_cast<double>(1 + as_much) / static_cast<double>(1 + permutations);
  if (groups < 2) return result;
  double mean = 0, squares = 0;
  for (size_t g = 0; g < without.size(); ++g)
    mean += without[g] = entropies[g] > 0 ? (without[g] / each - result.permuted) / (entropies[g] / each) : 0;
  mean /= static_cast<double>(groups);
  for (const double value : without) squares += (value - mean) * (value - mean);
  result.standard_error = std::sqrt(squares * static_cast<double>(groups - 1) / static_cast<double>(groups));
  return result;
}

}  // namespace coterie::lens
