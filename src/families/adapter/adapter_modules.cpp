#include "families/adapter/adapter_modules.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/nearest.h"
#include "families/family.h"
#include "families/names/merged_rows.h"

namespace coterie::families {

namespace {

using layers::TensorReader;

constexpr std::string_view kWeight = ".weight";

struct Adaptable {
  layers::ListedTensor tensor;
  int64_t stack, rows, cols;
};

class Lister : public TensorReader {
 public:
  void lora(const Tensor& tensor, int64_t rows, int64_t cols, const layers::Lora&) override {
    list.push_back({tensor, 0, rows, cols});
  }
  void loras(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             const std::vector<ops::LowRank>&) override {
    list.push_back({tensor, experts, rows, cols});
  }
  std::vector<Adaptable> list;
};

/// The name that transformers 5 has in memory, which is what peft sees: of a stack the tensor of all experts.
const NameInFile* in_memory(const std::vector<NameInFile>& names, bool stack, bool per_expert) {
  const NameInFile* found = nullptr;
  for (const NameInFile& name : names) {
    const bool each = name.pattern.find("{expert}") != std::string::npos;
    // Nor of experts that are the rows of one matrix: peft has no adapter for each of them.
    const bool quantised =
        name.form == Form::mxfp4_pair || name.form == Form::rows_together || name.form == Form::columns_together;
    if (!stack && !each && !is_grouped(name.piece)) found = &name;
    if (stack && !per_expert && !each && !name.pattern.ends_with(kWeight) && !quantised) found = &name;
    if (stack && per_expert && each && name.piece == Piece::whole && !found) found = &name;
  }
  return found;
}

/// "blocks.3.moe.experts.gate" and "…up" → "blocks.3.moe.experts.gate_up"; q, k and v → "…qkv".
std::string joined_path(const std::vector<AdapterModule::Piece>& pieces) {
  std::string path = pieces.front().path;
  for (size_t i = 1; i < pieces.size(); ++i) {
    const std::string last = pieces[i].path.substr(pieces[i].path.rfind('.') + 1);
    path += (last.size() > 1 ? "_" : "") + last;
  }
  return path;
}

int64_t permuted_heads(const models::ModelSpec& spec, const std::string& path) {
  if (!path.ends_with("attention.q") && !path.ends_with("attention.k")) return 0;
  const int64_t layer = path_pattern(path).layer;
  const layers::AttentionSpec* attention = attention_of(spec, spec.blocks.at(static_cast<size_t>(layer)));
  if (!attention || !attention->rope || attention->rope->style != ops::RopeTable::Style::interleaved) return 0;
  return path.ends_with('q') ? attention->heads : attention->kv_heads;
}

/// The parts of a path that name what it is: "experts" and "gate_up" of "blocks.3.moe.experts.gate_up".
std::pair<std::string, std::string> words_of(const std::string& path) {
  const size_t dot = path.rfind('.');
  const std::string last = path.substr(dot + 1);
  if (last == "router") return {"router", ""};
  const size_t before = path.rfind('.', dot - 1);
  std::string group = path.substr(before + 1, dot - before - 1);
  if (group == "latent") group = "attention";
  if (group == "shared") group = "shared_experts";
  if (group == "ffn") group = "dense_ffn";
  return {group, last};
}

}  // namespace

int64_t AdapterModule::row(int64_t in_file) const {
  if (alternating) return in_file / 2 + in_file % 2 * (outputs / 2);
  if (permuted_heads == 0) return in_file;
  const int64_t head = outputs / permuted_heads, r = in_file % head, half = head / 2;
  return in_file - r + (r < half ? 2 * r : 2 * (r - half) + 1);
}

std::string AdapterModule::group() const { return words_of(path).first; }

std::string AdapterModule::word() const {
  const auto [group, part] = words_of(path);
  return part.empty() ? group : group + "." + part;
}

std::vector<AdapterModule> adapter_modules(const models::Decoder& decoder, bool per_expert) {
  const models::ModelSpec& spec = decoder.spec();
  Lister lister;
  decoder.read(lister);
  const Family& family = family_of(spec);
  const NameTable table = family.hugging_face_names();
  std::vector<AdapterModule> modules;
  std::map<std::string, size_t> by_name;
  for (const Adaptable& adaptable : lister.list) {
    const auto [pattern, layer, item] = path_pattern(adaptable.tensor.path);
    const std::vector<NameInFile>* names = table.find(pattern);
    const NameInFile* found = names ? in_memory(*names, adaptable.stack > 0, per_expert) : nullptr;
    const bool own = &family == &own_family();  // not in transformers: the paths are the names
    if (!found && own && names) found = &names->front();
    if (!found) continue;
    std::string name = expand(found->pattern, layer, -1, item);
    Piece piece = found->piece;
    if (own && adaptable.stack > 0 && !name.ends_with("down")) {
      name = name.substr(0, name.rfind('.')) + ".gate_up";
      piece = adaptable.tensor.path.ends_with("gate") ? Piece::first_half : Piece::second_half;
    }
    const auto [at, is_new] = by_name.try_emplace(name, modules.size());
    if (is_new) {
      AdapterModule& module = modules.emplace_back();
      module.place = adaptable.tensor.place, module.stack = adaptable.stack, module.inputs = adaptable.cols;
      using Kind = AdapterModule::Kind;
      if (adaptable.stack > 0 && per_expert) {
        module.kind = Kind::per_expert;
        module.name = name.substr(0, name.size() - kWeight.size());
      } else if (adaptable.stack > 0 || adaptable.tensor.place == layers::Place::router) {
        module.kind = Kind::parameter;  // routers of transformers 5 hold their matrix as a parameter too
        module.name = name.substr(0, name.rfind('.')), module.parameter = name.substr(name.rfind('.') + 1);
      } else {
        module.name = name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
      }
      if (own && adaptable.stack == 0 && adaptable.tensor.place == layers::Place::router)
        module.kind = Kind::linear, module.name = name, module.parameter.clear();
    }
    AdapterModule& module = modules[at->second];
    module.pieces.push_back({adaptable.tensor.path, module.outputs, adaptable.rows});
    module.outputs += adaptable.rows;
    module.alternating = piece == Piece::even_rows || piece == Piece::odd_rows;
    module.permuted_heads = permuted_heads(spec, adaptable.tensor.path);
    module.path = joined_path(module.pieces);
  }
  return modules;
}

std::vector<std::string> adapter_targets(const std::vector<AdapterModule>& modules) {
  std::vector<std::string> words;
  const auto add = [&](const std::string& word) {
    if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
  };
  for (const AdapterModule& module : modules) add(module.group());
  for (const AdapterModule& module : modules) add(module.word());
  return words;
}

void expect_known(const std::vector<std::string>& words, const std::vector<std::string>& known,
                  std::string_view where) {
  for (const std::string& word : words) {
    if (word == "all" || std::find(known.begin(), known.end(), word) != known.end()) continue;
    std::string all = "it has all";
    for (const std::string& k : known) all += ", " + k;
    const std::string meant = base::did_you_mean(word, known);
    throw base::Error(base::ErrorKind::bad_input, std::string(where),
                      fmt::format("\"{}\" matches nothing in this model{}{}", word, meant.empty() ? "" : "; ", meant),
                      all);
  }
}

std::vector<AdapterModule> chosen_modules(const std::vector<AdapterModule>& modules,
                                          const std::vector<std::string>& words) {
  const std::vector<std::string> known = adapter_targets(modules);
  if (words.empty()) base::fail(base::ErrorKind::bad_input, "targets", "none are given");
  expect_known(words, known, "targets");
  std::vector<AdapterModule> chosen;
  for (const AdapterModule& module : modules)
    if (std::any_of(words.begin(), words.end(), [&](const std::string& word) {
          return word == "all" || word == module.group() || word == module.word();
        }))
      chosen.push_back(module);
  return chosen;
}

}  // namespace coterie::families
