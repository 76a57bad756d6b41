#include "lens/routes.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "lens/trace.h"

namespace coterie::lens {

namespace {

using base::ErrorKind;

Routes of_trace(const std::filesystem::path& path) {
  const Trace trace(path);
  Routes routes;
  routes.model = path.stem().string();
  routes.layers = trace.shape.count(), routes.choices = trace.shape.choices;
  routes.experts = *std::max_element(trace.shape.experts.begin(), trace.shape.experts.end());
  routes.ids.assign(trace.experts.begin(), trace.experts.end());
  routes.sequence_begin = trace.sequence_begin;
  routes.prompt.assign(static_cast<size_t>(trace.sequences()), 0);
  return routes;
}

/// Reads the lines of a .jsonl file.
class Lines {
 public:
  explicit Lines(const std::filesystem::path& path) : path_(path.string()), file_(path) {
    if (!file_) base::fail(ErrorKind::not_found, path_, "cannot be opened");
  }

  Routes read() {
    std::string line;
    while (std::getline(file_, line)) {
      ++number_;
      if (line.empty()) continue;
      const std::string where = fmt::format("{}: line {}", path_, number_);
      const base::Json json = base::parse_json(line, where);
      if (!json.is_object()) base::fail(ErrorKind::bad_input, where, "is not a JSON object");
      base::JsonReader reader(json, where);
      if (routes_.experts == 0)
        describe(reader);
      else
        add(reader);
    }
    if (routes_.ids.empty()) base::fail(ErrorKind::bad_input, path_, "holds no token");
    return std::move(routes_);
  }

 private:
  void describe(base::JsonReader& reader) {
    routes_.model = reader.string("model", "");
    routes_.experts = reader.integer("experts"), routes_.choices = reader.integer("k");
    if (routes_.experts < 1 || routes_.experts > std::numeric_limits<int16_t>::max() || routes_.choices < 1 ||
        routes_.choices > routes_.experts)
      base::fail(ErrorKind::bad_input, reader.where(), "says {} experts and {} of them for a token", routes_.experts,
                 routes_.choices);
    routes_.layers = reader.integer("layers", 0);
    if (routes_.layers < 0) base::fail(ErrorKind::bad_input, reader.where(), "says {} layers", routes_.layers);
    if (!reader.has("expert_bytes")) return;
    const std::vector<int64_t> sizes = reader.integers("expert_bytes");
    if (sizes.empty() || *std::min_element(sizes.begin(), sizes.end()) < 1)
      base::fail(ErrorKind::bad_input, reader.where(), "\"expert_bytes\" are not numbers of bytes");
    routes_.expert_bytes = std::accumulate(sizes.begin(), sizes.end(), int64_t{0}) / std::ssize(sizes);
  }

  void add(base::JsonReader& reader) {
    const base::Json* layers = reader.value("experts");
    if (!layers || !layers->is_array() || layers->empty())
      base::fail(ErrorKind::bad_input, reader.where(), "has no list \"experts\" of layers");
    if (routes_.layers == 0) routes_.layers = std::ssize(*layers);
    if (std::ssize(*layers) > routes_.layers)
      base::fail(ErrorKind::bad_input, reader.where(), "has {} layers of {}", layers->size(), routes_.layers);
    for (const base::Json& ids : *layers) {
      if (!ids.is_array() || std::ssize(ids) > routes_.choices)
        base::fail(ErrorKind::bad_input, reader.where(), "expected lists of at most {} experts", routes_.choices);
      for (const base::Json& id : ids) {
        if (!id.is_number_integer() || id < 0 || id >= routes_.experts)
          base::fail(ErrorKind::bad_input, reader.where(), "{} is not one of {} experts", id.dump(), routes_.experts);
        const auto expert = id.get<int16_t>();
        const auto own = routes_.ids.end() - static_cast<std::ptrdiff_t>(&id - &ids.front());
        if (std::find(own, routes_.ids.end(), expert) != routes_.ids.end())
          base::fail(ErrorKind::bad_input, reader.where(), "names expert {} twice in one layer", expert);
        routes_.ids.push_back(expert);
      }
      routes_.ids.insert(routes_.ids.end(), static_cast<size_t>(routes_.choices - std::ssize(ids)), -1);
    }
    // Of a prompt's tokens but the last, engines skip the last layer.
    routes_.ids.insert(routes_.ids.end(), static_cast<size_t>((routes_.layers - std::ssize(*layers)) * routes_.choices),
                       -1);
    const bool prompt = reader.integer("phase", 1) == 0;
    // A prompt behind an answer begins another sequence.
    if (routes_.prompt.empty() || (prompt && !in_prompt_)) {
      routes_.sequence_begin.push_back(routes_.sequence_begin.back());
      routes_.prompt.push_back(0);
    }
    ++routes_.sequence_begin.back();
    routes_.prompt.back() += prompt;
    in_prompt_ = prompt;
  }

  std::string path_;
  std::ifstream file_;
  int64_t number_ = 0;
  bool in_prompt_ = false;
  Routes routes_;
};

}  // namespace

Routes read_routes(const std::filesystem::path& path) {
  return path.extension() == ".jsonl" ? Lines(path).read() : of_trace(path);
}

}  // namespace coterie::lens
