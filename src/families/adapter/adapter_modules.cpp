#include "families/adapter/adapter_modules.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/nearest.h"
#include "families/config/config_writer.h"
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
    if (!stack && !each) found = &name;
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

/// Whether the family's folders have rotary pairs side by side too (ERNIE 4.5, Llama 4), by its own config.json.
bool pairs_side_by_side(const models::ModelSpec& spec) {
  const Family& family = family_of(spec);
  const bool here = std::any_of(spec.blocks.begin(), spec.blocks.end(), [&](const models::BlockSpec& block) {
    const layers::AttentionSpec* attention = attention_of(spec, block);
    return attention && attention->rope && attention->rope->style == ops::RopeTable::Style::interleaved;
  });
  if (!here || !family.to_config) return false;
  const models::ModelSpec there = read_config(write_config(family, spec), "config.json", false);
  for (const models::BlockSpec& block : there.blocks)
    if (const layers::AttentionSpec* attention = attention_of(there, block); attention && attention->rope)
      return attention->rope->style == ops::RopeTable::Style::interleaved;
  return false;
}

/// Heads whose rotary pairs lie side by side here, and half a head apart there.
void pair_by_halves(int64_t heads, std::vector<int64_t>& order) {
  const int64_t head = std::ssize(order) / heads, half = head / 2;
  for (int64_t i = 0; i < std::ssize(order); ++i) {
    const int64_t r = i % head;
    order[static_cast<size_t>(i)] = i - r + (r < half ? 2 * r : 2 * (r - half) + 1);
  }
}

/// Heads [from, to) of `dim` rows each, in turn for each of `keys` key heads here, and by key head there.
void by_key_head(int64_t from, int64_t heads, int64_t dim, int64_t keys, std::vector<int64_t>& order) {
  const int64_t each = heads / keys;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < dim; ++i)
      order[static_cast<size_t>(from + h * dim + i)] = from + (h % each * keys + h / each) * dim + i;
}

std::vector<int64_t> same_order(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// What one of our weights that is part of a module is in the file.
struct Part {
  Piece piece;
  Adaptable of;
};

/// How the rows and columns of a module lie in the files of transformers; `parts` are its pieces, and rotary pairs lie
/// there as_here.
void find_order(const models::ModelSpec& spec, bool as_here, const std::vector<Part>& parts, AdapterModule& module) {
  const Piece piece = parts.front().piece;
  if (piece == Piece::even_rows || piece == Piece::odd_rows) {
    module.output_order = same_order(module.outputs);
    for (int64_t i = 0; i < module.outputs; ++i)
      module.output_order[static_cast<size_t>(i)] = i / 2 + i % 2 * (module.outputs / 2);
  }
  if (is_grouped(piece)) {
    module.output_order = same_order(module.outputs);
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto& [kind, of] = parts[p];
      for (int64_t r = 0; r < of.rows; ++r) {
        const int64_t in_file = grouped_row(kind, r, of.rows, of.tensor.parts, of.tensor.merged_with);
        module.output_order[static_cast<size_t>(in_file)] = module.pieces[p].first + r;
      }
    }
  }
  // Only GGUF has heads in another order than transformers.
  const std::string& path = module.pieces.front().path;
  const int64_t layer = path_pattern(path).layer;
  if (layer < 0 || !spec.family.model_type.empty()) return;
  const models::BlockSpec& block = spec.blocks.at(static_cast<size_t>(layer));
  if (path.ends_with("attention.q") || path.ends_with("attention.k")) {
    const layers::AttentionSpec* attention = attention_of(spec, block);
    if (!attention || !attention->rope || as_here || attention->rope->style != ops::RopeTable::Style::interleaved)
      return;
    module.output_order = same_order(module.outputs);
    pair_by_halves(path.ends_with('q') ? attention->heads : attention->kv_heads, module.output_order);
  }
  const auto* delta = std::get_if<layers::DeltaRuleSpec>(&block.mixer);
  if (!delta || !delta->by_turn) return;
  const int64_t heads = delta->value_heads, keys = delta->key_heads;
  if (path.ends_with("delta.out")) {
    module.input_order = same_order(module.inputs);
    by_key_head(0, heads, delta->value_dim, keys, module.input_order);
    return;
  }
  const bool gates = path.ends_with("delta.beta") || path.ends_with("delta.decay");
  if (!gates && !path.ends_with("delta.qkv") && !path.ends_with("delta.gate")) return;
  module.output_order = same_order(module.outputs);
  by_key_head(path.ends_with("qkv") ? 2 * delta->key_width() : 0, heads, gates ? 1 : delta->value_dim, keys,
              module.output_order);
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
  std::vector<std::vector<Part>> parts;  // of each
  std::map<std::string, size_t> by_name;
  for (const Adaptable& adaptable : lister.list) {
    const auto [pattern, layer, item] = path_pattern(adaptable.tensor.path);
    const std::vector<NameInFile>* names = table.find(pattern);
    const NameInFile* found = names ? in_memory(*names, adaptable.stack > 0, per_expert) : nullptr;
    const bool own = &family == &own_family();  // not in transformers: the paths are the names
    // LongCat's, some of which have no weights: only one by one.
    const bool each = adaptable.stack > 0 && (per_expert || (!found && names && !own));
    if (each && !per_expert) found = in_memory(*names, true, true);
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
      parts.emplace_back();
      module.place = adaptable.tensor.place, module.stack = adaptable.stack, module.inputs = adaptable.cols;
      using Kind = AdapterModule::Kind;
      if (each) {
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
    module.path = joined_path(module.pieces);
    parts[at->second].push_back({piece, adaptable});
  }
  const bool as_here = !spec.family.model_type.empty() || pairs_side_by_side(spec);
  for (size_t m = 0; m < modules.size(); ++m) find_order(spec, as_here, parts[m], modules[m]);
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
