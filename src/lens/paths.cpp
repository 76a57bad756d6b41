#include "lens/paths.h"

#include <algorithm>
#include <map>
#include <vector>

namespace coterie::lens {

namespace {

using base::Json;
using Path = std::vector<int16_t>;

int64_t differences(const Path& a, const Path& b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i];
  return count;
}

struct Group {
  Path path;
  std::vector<int64_t> tokens;
};

/// The commonest token ids among some tokens.
Json commonest(const Corpus& corpus, const std::vector<int64_t>& tokens) {
  std::map<int32_t, int64_t> counts;
  for (const int64_t t : tokens) ++counts[corpus.ids[static_cast<size_t>(t)]];
  std::vector<std::pair<int64_t, int32_t>> order;
  for (const auto& [id, count] : counts) order.emplace_back(-count, id);
  std::sort(order.begin(), order.end());
  Json list = Json::array();
  for (size_t i = 0; i < std::min<size_t>(8, order.size()); ++i)
    list.push_back({{"text", corpus.text_of(order[i].second)}, {"count", -order[i].first}});
  return list;
}

/// The centres that the paths are nearest to: each group's share of layers on which its members go where its mode goes
/// grows from round to round.
std::vector<Path> modes(const std::vector<Group>& groups, int64_t clusters) {
  std::vector<Path> centres = {groups.front().path};
  const auto nearest = [&](const Path& path) {
    size_t best = 0;
    for (size_t c = 1; c < centres.size(); ++c)
      if (differences(path, centres[c]) < differences(path, centres[best])) best = c;
    return best;
  };
  while (std::ssize(centres) < std::min(clusters, std::ssize(groups))) {
    const Group* farthest = nullptr;
    int64_t most = 0;
    for (const Group& group : groups) {
      const int64_t weight = differences(group.path, centres[nearest(group.path)]) * std::ssize(group.tokens);
      if (weight > most) most = weight, farthest = &group;
    }
    if (!farthest) break;
    centres.push_back(farthest->path);
  }
  for (int round = 0; round < 10; ++round) {
    std::vector<std::vector<std::map<int16_t, int64_t>>> votes(
        centres.size(), std::vector<std::map<int16_t, int64_t>>(centres.front().size()));
    for (const Group& group : groups) {
      auto& of = votes[nearest(group.path)];
      for (size_t i = 0; i < group.path.size(); ++i) of[i][group.path[i]] += std::ssize(group.tokens);
    }
    std::vector<Path> moved = centres;
    for (size_t c = 0; c < centres.size(); ++c)
      for (size_t i = 0; i < centres[c].size(); ++i)
        if (!votes[c][i].empty())
          moved[c][i] = std::max_element(votes[c][i].begin(), votes[c][i].end(), [](const auto& a, const auto& b) {
                          return a.second < b.second;
                        })->first;
    if (moved == centres) break;
    centres = moved;
  }
  return centres;
}

}  // namespace

Json paths(const Corpus& corpus, int64_t clusters) {
  const int64_t l = corpus.shape.count(), k = corpus.shape.choices, n = corpus.tokens();
  std::map<Path, std::vector<int64_t>> seen;
  for (int64_t t = 0; t < n; ++t) {
    Path path(static_cast<size_t>(l));
    for (int64_t i = 0; i < l; ++i)
      path[static_cast<size_t>(i)] = corpus.choices.experts[static_cast<size_t>((t * l + i) * k)];
    seen[path].push_back(t);
  }
  std::vector<Group> groups;
  for (auto& [path, tokens] : seen) groups.push_back({path, std::move(tokens)});
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.tokens.size() > b.tokens.size(); });
  const auto share = [n](size_t tokens) { return static_cast<double>(tokens) / static_cast<double>(n); };
  Json common = Json::array();
  for (size_t i = 0; i < std::min<size_t>(20, groups.size()); ++i)
    common.push_back({{"path", groups[i].path},
                      {"share", share(groups[i].tokens.size())},
                      {"tokens", commonest(corpus, groups[i].tokens)}});
  const int64_t distinct = std::ssize(groups);
  constexpr size_t kMost = 4000;  // of the commonest paths, which the clusters are made of
  if (groups.size() > kMost) groups.resize(kMost);
  const std::vector<Path> centres = modes(groups, clusters);
  struct Cluster {
    std::vector<int64_t> tokens;
    int64_t agreeing = 0;
  };
  std::vector<Cluster> found(centres.size());
  for (const Group& group : groups) {
    size_t best = 0;
    for (size_t c = 1; c < centres.size(); ++c)
      if (differences(group.path, centres[c]) < differences(group.path, centres[best])) best = c;
    found[best].tokens.insert(found[best].tokens.end(), group.tokens.begin(), group.tokens.end());
    found[best].agreeing += (l - differences(group.path, centres[best])) * std::ssize(group.tokens);
  }
  Json list = Json::array();
  int64_t clustered = 0;
  for (size_t c = 0; c < centres.size(); ++c) {
    if (found[c].tokens.empty()) continue;
    clustered += std::ssize(found[c].tokens);
    Json cluster = {
        {"path", centres[c]},
        {"share", share(found[c].tokens.size())},
        {"agreement", static_cast<double>(found[c].agreeing) / static_cast<double>(l * std::ssize(found[c].tokens))},
        {"tokens", commonest(corpus, found[c].tokens)}};
    if (!corpus.tag.empty()) {
      std::map<int32_t, int64_t> tags;
      for (const int64_t t : found[c].tokens)
        if (corpus.tag[static_cast<size_t>(t)] >= 0) ++tags[corpus.tag[static_cast<size_t>(t)]];
      std::vector<std::pair<int64_t, int32_t>> order;
      for (const auto& [tag, count] : tags) order.emplace_back(-count, tag);
      std::sort(order.begin(), order.end());
      cluster["tags"] = Json::array();
      for (size_t i = 0; i < std::min<size_t>(4, order.size()); ++i)
        cluster["tags"].push_back(
            {{"name", corpus.tags[static_cast<size_t>(order[i].second)]},
             {"share", static_cast<double>(-order[i].first) / static_cast<double>(found[c].tokens.size())}});
    }
    list.push_back(std::move(cluster));
  }
  std::stable_sort(list.begin(), list.end(), [](const Json& a, const Json& b) { return a["share"] > b["share"]; });
  return {{"distinct", distinct},
          {"common", common},
          {"clusters", list},
          {"clustered", static_cast<double>(clustered) / static_cast<double>(n)}};
}

}  // namespace coterie::lens
