#include "lens/study.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/error.h"
#include "lens/information.h"
#include "lens/paths.h"

namespace coterie::lens {

namespace {

using base::Json;

/// The classes of the tokens by a key, those seen less often than `least` left out.
struct Classes {
  Labels labels;
  std::vector<int32_t> keys;  // [C]
};

Classes classes_of(const std::string& name, std::span<const int32_t> keys, int64_t least) {
  std::map<int32_t, int64_t> counts;
  for (const int32_t key : keys)
    if (key >= 0) ++counts[key];
  Classes classes;
  std::map<int32_t, int32_t> number;
  for (const auto& [key, count] : counts)
    if (count >= least) number[key] = static_cast<int32_t>(classes.keys.size()), classes.keys.push_back(key);
  classes.labels.name = name, classes.labels.classes = std::ssize(classes.keys);
  for (const int32_t key : keys) {
    const auto found = number.find(key);
    classes.labels.of.push_back(found == number.end() ? -1 : found->second);
  }
  return classes;
}

/// Position 0, 1, 2-3, 4-7, …
int32_t distance(int32_t position) {
  int32_t bits = 0;
  for (; position > 0; position /= 2) ++bits;
  return bits;
}

std::vector<int32_t> of_documents(const Corpus& corpus, const std::vector<int32_t>& values) {
  std::vector<int32_t> result(corpus.ids.size());
  for (size_t d = 0; d < values.size(); ++d)
    std::fill(result.begin() + corpus.documents[d], result.begin() + corpus.documents[d + 1], values[d]);
  return result;
}

struct Questions {
  std::vector<Classes> all;
  std::vector<std::string> genres;
  std::vector<int32_t> genre;  // [N]
};

Questions questions_of(const Corpus& corpus, const StudyOptions& options) {
  Questions questions;
  questions.all.push_back(classes_of("token", corpus.ids, options.least));
  if (!corpus.tag.empty()) questions.all.push_back(classes_of("part of speech", corpus.tag, options.least));
  std::vector<int32_t> places;
  for (const int32_t position : corpus.position) places.push_back(distance(position));
  questions.all.push_back(classes_of("position", places, options.least));
  std::vector<int32_t> genre, document;
  for (const std::string& name : corpus.genres) {
    const auto found = std::find(questions.genres.begin(), questions.genres.end(), name);
    genre.push_back(static_cast<int32_t>(found - questions.genres.begin()));
    if (found == questions.genres.end()) questions.genres.push_back(name);
    document.push_back(static_cast<int32_t>(document.size()));
  }
  questions.genre = of_documents(corpus, genre);
  if (questions.genres.size() > 1) {
    questions.all.push_back(classes_of("genre", questions.genre, options.least));
    questions.all.back().labels.permuted = Labels::Permuted::documents;
  }
  if (document.size() > 1) {
    questions.all.push_back(classes_of("document", of_documents(corpus, document), options.least));
    questions.all.back().labels.permuted = Labels::Permuted::stretches;
  }
  return questions;
}

/// One layer's choices by themselves, [N, K].
std::vector<int16_t> of_layer(const Corpus& corpus, int64_t layer) {
  const int64_t l = corpus.shape.count(), k = corpus.shape.choices;
  std::vector<int16_t> result(static_cast<size_t>(corpus.tokens() * k));
  for (int64_t t = 0; t < corpus.tokens(); ++t)
    std::copy_n(corpus.choices.experts.begin() + (t * l + layer) * k, k, result.begin() + t * k);
  return result;
}

Json as_json(const Information& i) {
  return {{"nats", i.nats},
          {"permuted", i.permuted},
          {"entropy", i.entropy},
          {"normalised", i.normalised},
          {"standard_error", i.standard_error},
          {"p_value", i.p_value},
          {"tokens", i.tokens}};
}

constexpr int64_t kMostTogether = 128;  // experts whose pairs a page has room for

double rounded(double value) { return std::round(value * 1e6) / 1e6; }

/// [C][E]: of a class's assignments the share that each expert gets.
Json shares(std::span<const int16_t> experts, int64_t k, int64_t width, const Labels& labels) {
  std::vector<double> counts(static_cast<size_t>(labels.classes * width));
  for (size_t t = 0; t < labels.of.size(); ++t)
    for (int64_t c = 0; c < k && labels.of[t] >= 0; ++c)
      if (const int16_t e = experts[t * static_cast<size_t>(k) + static_cast<size_t>(c)]; e >= 0)
        ++counts[static_cast<size_t>(labels.of[t] * width + e)];
  Json rows = Json::array();
  for (int64_t c = 0; c < labels.classes; ++c) {
    const auto first = counts.begin() + c * width;
    const double all = std::accumulate(first, first + width, 0.0);
    Json row = Json::array();
    for (int64_t e = 0; e < width; ++e) row.push_back(rounded(all > 0 ? first[e] / all : 0));
    rows.push_back(std::move(row));
  }
  return rows;
}

/// P(j | i): of the tokens of expert i, the share that expert j has as well (OLMoE, section 5.2).
Json together(std::span<const int16_t> experts, int64_t k, int64_t width) {
  std::vector<double> counts(static_cast<size_t>(width * width)), of(static_cast<size_t>(width));
  for (size_t t = 0; t < experts.size(); t += static_cast<size_t>(k))
    for (int64_t a = 0; a < k; ++a) {
      const int16_t i = experts[t + static_cast<size_t>(a)];
      if (i < 0) continue;
      ++of[static_cast<size_t>(i)];
      for (int64_t b = 0; b < k; ++b)
        if (const int16_t j = experts[t + static_cast<size_t>(b)]; j >= 0 && b != a)
          ++counts[static_cast<size_t>(i * width + j)];
    }
  Json rows = Json::array();
  for (int64_t i = 0; i < width; ++i) {
    Json row = Json::array();
    for (int64_t j = 0; j < width; ++j)
      row.push_back(rounded(of[static_cast<size_t>(i)] > 0
                                ? counts[static_cast<size_t>(i * width + j)] / of[static_cast<size_t>(i)]
                                : 0));
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Some tokens before and behind, the token itself between brackets.
Json context_of(const Corpus& corpus, int64_t at) {
  const auto document = std::upper_bound(corpus.documents.begin(), corpus.documents.end(), at);
  const int64_t begin = std::max(*(document - 1), at - 7), end = std::min(*document, at + 6);
  std::string before, after;
  for (int64_t t = begin; t < at; ++t) before += corpus.text_of(corpus.ids[static_cast<size_t>(t)]);
  for (int64_t t = at + 1; t < end; ++t) after += corpus.text_of(corpus.ids[static_cast<size_t>(t)]);
  return {before, corpus.text_of(corpus.ids[static_cast<size_t>(at)]), after};
}

/// What each expert takes: its tokens, most first, and those that it takes oftener than others do, in context.
Json experts_of(const Corpus& corpus, std::span<const int16_t> experts, int64_t width, const Classes& token,
                const Classes* tags) {
  const int64_t k = corpus.shape.choices;
  struct Seen {
    int64_t count = 0;
    std::vector<int64_t> at;
  };
  std::vector<std::map<int32_t, Seen>> seen(static_cast<size_t>(width));
  std::vector<int64_t> assigned(static_cast<size_t>(width)), of_token(token.keys.size());
  std::vector<std::vector<int64_t>> by_tag(static_cast<size_t>(width),
                                           std::vector<int64_t>(tags ? tags->keys.size() : 0));
  for (int64_t t = 0; t < corpus.tokens(); ++t) {
    const int32_t label = token.labels.of[static_cast<size_t>(t)];
    if (label >= 0) ++of_token[static_cast<size_t>(label)];
    for (int64_t c = 0; c < k; ++c) {
      const int16_t e = experts[static_cast<size_t>(t * k + c)];
      if (e < 0) continue;
      ++assigned[static_cast<size_t>(e)];
      if (tags && tags->labels.of[static_cast<size_t>(t)] >= 0)
        ++by_tag[static_cast<size_t>(e)][static_cast<size_t>(tags->labels.of[static_cast<size_t>(t)])];
      if (label < 0) continue;
      Seen& one = seen[static_cast<size_t>(e)][label];
      if (++one.count <= 64) one.at.push_back(t);
    }
  }
  Json list = Json::array();
  for (int64_t e = 0; e < width; ++e) {
    const auto i = static_cast<size_t>(e);
    std::vector<std::pair<double, int32_t>> order;  // by how many more it takes than an even share would be
    const double share = static_cast<double>(assigned[i]) / static_cast<double>(corpus.tokens());
    for (const auto& [label, one] : seen[i])
      order.emplace_back(
          static_cast<double>(one.count) - share * static_cast<double>(of_token[static_cast<size_t>(label)]), label);
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    Json tokens = Json::array(), contexts = Json::array();
    for (size_t o = 0; o < std::min<size_t>(order.size(), 12) && order[o].first > 0; ++o) {
      const int32_t label = order[o].second;
      const Seen& one = seen[i].at(label);
      tokens.push_back({{"id", token.keys[static_cast<size_t>(label)]},
                        {"text", corpus.text_of(token.keys[static_cast<size_t>(label)])},
                        {"count", one.count},
                        {"share", rounded(static_cast<double>(one.count) /
                                          static_cast<double>(of_token[static_cast<size_t>(label)]))}});
      if (o < 3) contexts.push_back(context_of(corpus, one.at[one.at.size() / 2]));
    }
    Json expert = {{"expert", e}, {"share", rounded(share)}, {"tokens", tokens}, {"contexts", contexts}};
    if (tags && assigned[i] > 0) {
      const auto most = std::max_element(by_tag[i].begin(), by_tag[i].end());
      const int64_t all = std::accumulate(by_tag[i].begin(), by_tag[i].end(), int64_t{0});
      if (all > 0)
        expert["tag"] = {
            {"name", corpus.tags[static_cast<size_t>(tags->keys[static_cast<size_t>(most - by_tag[i].begin())])]},
            {"share", rounded(static_cast<double>(*most) / static_cast<double>(all))}};
    }
    list.push_back(std::move(expert));
  }
  return list;
}

/// Vocabulary specialisation (OLMoE, section 5.4): of a token id's assignments the share that goes to one expert, N(x,
/// E) / N(x) with each of a token's K experts counted. Here of each id its first expert's, averaged over the tokens.
Json vocabulary(std::span<const int16_t> experts, int64_t k, int64_t width, const Labels& token) {
  std::vector<int32_t> counts(static_cast<size_t>(token.classes * width)), all(static_cast<size_t>(token.classes));
  for (size_t t = 0; t < token.of.size(); ++t) {
    if (token.of[t] < 0) continue;
    ++all[static_cast<size_t>(token.of[t])];
    for (int64_t c = 0; c < k; ++c)
      if (const int16_t e = experts[t * static_cast<size_t>(k) + static_cast<size_t>(c)]; e >= 0)
        ++counts[static_cast<size_t>(token.of[t] * width + e)];
  }
  double sum = 0, tokens = 0;
  for (int64_t v = 0; v < token.classes; ++v) {
    sum += *std::max_element(counts.begin() + v * width, counts.begin() + (v + 1) * width);
    tokens += all[static_cast<size_t>(v)];
  }
  return {{"specialisation", tokens > 0 ? rounded(sum / tokens) : 0.0},
          {"chance", rounded(static_cast<double>(k) / static_cast<double>(width))}};
}

Json layer_of(const Corpus& corpus, const Questions& questions, int64_t layer, std::span<const int16_t> experts) {
  const int64_t k = corpus.shape.choices, width = corpus.shape.experts[static_cast<size_t>(layer)];
  std::vector<double> load(static_cast<size_t>(width)), first(load.size());
  double entropy = 0, repeats = 0, pairs = 0;
  for (int64_t t = 0; t < corpus.tokens(); ++t) {
    for (int64_t c = 0; c < k; ++c)
      if (const int16_t e = experts[static_cast<size_t>(t * k + c)]; e >= 0) ++load[static_cast<size_t>(e)];
    const int16_t top = experts[static_cast<size_t>(t * k)];
    if (top >= 0) ++first[static_cast<size_t>(top)];
    entropy += static_cast<double>(corpus.choices.entropy[static_cast<size_t>(t * corpus.shape.count() + layer)]);
    if (t > 0 && corpus.position[static_cast<size_t>(t)] > 0 && top >= 0)
      ++pairs, repeats += top == experts[static_cast<size_t>((t - 1) * k)];
  }
  const double all = std::accumulate(load.begin(), load.end(), 0.0),
               firsts = std::accumulate(first.begin(), first.end(), 0.0);
  double chance = 0;
  for (double& f : first) f /= std::max(firsts, 1.0), chance += f * f;
  Json loads = Json::array();
  int64_t dead = 0;
  for (const double l : load)
    dead += l == 0, loads.push_back(rounded(all > 0 ? l / all * static_cast<double>(width) : 0));
  const Classes* tags = nullptr;
  Json by_class = Json::object();
  for (const Classes& classes : questions.all) {
    const std::string& name = classes.labels.name;
    if (name == "part of speech") tags = &classes;
    if (name == "part of speech" || name == "genre" || name == "position")
      by_class[name] = shares(experts, k, width, classes.labels);
  }
  return {{"layer", corpus.shape.layers[static_cast<size_t>(layer)]},
          {"experts", width},
          {"load", loads},
          {"dead", dead},
          {"entropy", rounded(entropy / static_cast<double>(corpus.tokens()) /
                              std::max(std::log(static_cast<double>(width)), 1e-9))},
          {"repeats", {{"share", rounded(pairs > 0 ? repeats / pairs : 0)}, {"chance", rounded(chance)}}},
          {"vocabulary", vocabulary(experts, k, width, questions.all.front().labels)},
          {"classes", by_class},
          {"together", k > 1 && width <= kMostTogether ? together(experts, k, width) : Json(nullptr)},
          {"takes", experts_of(corpus, experts, width, questions.all.front(), tags)}};
}

}  // namespace

std::vector<double> agreement(const RouterShape& shape, const Choices& a, const Choices& b) {
  base::require(a.experts.size() == b.experts.size() && !a.experts.empty(), "agreement", "{} and {} choices",
                a.experts.size(), b.experts.size());
  const int64_t l = shape.count(), k = shape.choices, n = std::ssize(a.experts) / (l * k);
  std::vector<double> same(static_cast<size_t>(l)), all(same.size());
  for (int64_t t = 0; t < n; ++t)
    for (int64_t i = 0; i < l; ++i) {
      const auto row = static_cast<size_t>((t * l + i) * k);
      const auto first = b.experts.begin() + static_cast<int64_t>(row), last = first + k;
      for (int64_t c = 0; c < k; ++c) {
        const int16_t e = a.experts[row + static_cast<size_t>(c)];
        if (e < 0) continue;
        all[static_cast<size_t>(i)] += 1, same[static_cast<size_t>(i)] += std::find(first, last, e) != last;
      }
    }
  for (size_t i = 0; i < same.size(); ++i) same[i] = all[i] > 0 ? same[i] / all[i] : 0;
  return same;
}

Json study(const Corpus& corpus, threads::Pool& pool, const StudyOptions& options) {
  const int64_t n = corpus.tokens(), l = corpus.shape.count();
  base::require(n > 0 && std::ssize(corpus.choices.experts) == n * l * corpus.shape.choices, "study",
                "{} choices of {} tokens", corpus.choices.experts.size(), n);
  const Questions questions = questions_of(corpus, options);
  std::vector<std::vector<int16_t>> experts;
  for (int64_t i = 0; i < l; ++i) experts.push_back(of_layer(corpus, i));
  const int64_t asked = std::ssize(questions.all);
  std::vector<Information> told(static_cast<size_t>(l * asked));
  std::vector<Json> layers(static_cast<size_t>(l));
  // The longest first: a token's id has the most classes.
  pool.each(l * (asked + 1), [&](int64_t task, int) {
    const int64_t i = task % l, q = task / l;
    if (q == asked) {
      layers[static_cast<size_t>(i)] = layer_of(corpus, questions, i, experts[static_cast<size_t>(i)]);
      return;
    }
    const Labels& labels = questions.all[static_cast<size_t>(q)].labels;
    if (labels.classes > 1)
      told[static_cast<size_t>(i * asked + q)] =
          mutual_information(experts[static_cast<size_t>(i)], corpus.shape.choices, corpus.shape.choices,
                             corpus.shape.experts[static_cast<size_t>(i)], labels, corpus.documents,
                             options.permutations, options.seed + static_cast<uint64_t>(task));
  });
  Json names = Json::object();
  for (const Classes& classes : questions.all) {
    if (classes.labels.name == "token" || classes.labels.name == "document") continue;
    Json list = Json::array();
    for (const int32_t key : classes.keys)
      list.push_back(classes.labels.name == "genre" ? questions.genres[static_cast<size_t>(key)]
                     : classes.labels.name == "position"
                         ? (key < 2 ? std::to_string(key) : fmt::format("{}–{}", 1 << (key - 1), (1 << key) - 1))
                         : corpus.tags[static_cast<size_t>(key)]);
    names[classes.labels.name] = list;
  }
  Json result = {{"tokens", n},
                 {"documents", corpus.names.size()},
                 {"choices", corpus.shape.choices},
                 {"permutations", options.permutations},
                 {"seed", options.seed},
                 {"classes", names},
                 {"layers", Json::array()}};
  for (int64_t i = 0; i < l; ++i) {
    Json& layer = layers[static_cast<size_t>(i)];
    for (int64_t q = 0; q < asked; ++q)
      layer["information"][questions.all[static_cast<size_t>(q)].labels.name] =
          as_json(told[static_cast<size_t>(i * asked + q)]);
    // How much a layer's first expert tells of the next layer's.
    if (i + 1 < l) {
      Labels next{.name = "next layer", .of = {}, .classes = corpus.shape.experts[static_cast<size_t>(i + 1)]};
      for (int64_t t = 0; t < n; ++t)
        next.of.push_back(experts[static_cast<size_t>(i + 1)][static_cast<size_t>(t * corpus.shape.choices)]);
      const Information told_next =
          mutual_information(experts[static_cast<size_t>(i)], corpus.shape.choices, 1,
                             corpus.shape.experts[static_cast<size_t>(i)], next, corpus.documents, 1, options.seed);
      layer["next_layer"] = rounded(told_next.normalised);
    }
    result["layers"].push_back(std::move(layer));
  }
  result["paths"] = paths(corpus, 8);
  return result;
}

}  // namespace coterie::lens
