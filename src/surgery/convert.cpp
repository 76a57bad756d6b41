#include "surgery/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/memory_source.h"
#include "checkpoint/tensor_sink.h"
#include "layers/attention/rope.h"
#include "models/export.h"
#include "models/families/family.h"
#include "models/gguf_metadata.h"
#include "surgery/recode.h"
#include "surgery/same_model.h"
#include "text/gguf_export.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using checkpoint::Metadata;
using checkpoint::TensorInfo;
using checkpoint::TensorToWrite;
using layers::Place;
using models::ModelSpec;
using models::NameTable;
using tensor::DType;

constexpr std::string_view kOwn = "coterie";

/// The names that are written. What binding would undo (-exp) is done here, by value.
NameTable names_to_write(const std::string& architecture, std::set<std::string, std::less<>>& minus_exp) {
  if (architecture == kOwn) return models::family_of_model_type(kOwn, "GGUF").hugging_face_names();
  NameTable table = models::gguf_names(architecture);
  for (auto& [path, names] : table.names)
    for (models::NameInFile& name : names)
      if (std::exchange(name.minus_exp, false)) minus_exp.insert(path);
  if (architecture == "phi3") {  // llama.cpp has q, k and v, and gate and up, in one tensor each
    const std::string path = "blocks.{layer}.";
    for (const std::string part : {"q", "k", "v"})
      std::swap(table.names[path + "attention." + part][0], table.names[path + "attention." + part][1]);
    table.names[path + "ffn.gate"] = {{"blk.{layer}.ffn_up.weight", models::Piece::first_half}};
    table.names[path + "ffn.up"] = {{"blk.{layer}.ffn_up.weight", models::Piece::second_half}};
  }
  return table;
}

/// What is known of a tensor of the file by the weights it is made of.
struct Role {
  std::string path;
  Place place = Place::mixer;
  bool vector = false, one_row = false;
};

class Roles : public layers::TensorVisitor {
 public:
  explicit Roles(const NameTable& names) : names_(names) {}
  void matrix(const Tensor& tensor, int64_t rows, int64_t, tensor::Weight&) override { add(tensor, false, rows == 1); }
  void vector(const Tensor& tensor, int64_t, layers::Vector&) override { add(tensor, true, false); }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, std::vector<tensor::Weight>&) override {
    add(tensor, false, false);
  }
  std::map<std::string, Role> roles;

 private:
  void add(const Tensor& tensor, bool vector, bool one_row) {
    const auto [pattern, layer, item] = models::path_pattern(tensor.path);
    const std::vector<models::NameInFile>* names = names_.find(pattern);
    if (!names) base::fail(ErrorKind::unsupported, "GGUF", "there is no name for {}", tensor.path);
    roles[models::expand(names->front().pattern, layer, -1, item)] = {tensor.path, tensor.place, vector, one_row};
  }
  const NameTable& names_;
};

class Writer {
 public:
  Writer(const models::Model& model, const ConvertOptions& options)
      : model_(model), options_(options), spec_(model.decoder->spec()), pool_(options.threads) {
    architecture_ = models::gguf_architecture(spec_);
    const NameTable names = names_to_write(architecture_, minus_exp_);
    Roles roles(names);
    model.decoder->visit(roles);
    roles_ = std::move(roles.roles);
    tensors_ = models::tensors_to_write(*model.decoder, names);
    add_rope_tensors();
    describe();
    const ModelSpec read = read_back();
    require_same(spec_, read, model.path.config.string());
    for (TensorToWrite& tensor : tensors_) recode(tensor, read);
  }

  Converted write(const std::filesystem::path& out) {
    Converted result;
    int64_t all = 0, done = 0;
    for (const TensorToWrite& tensor : tensors_) all += tensor::element_count(tensor.shape);
    for (TensorToWrite& tensor : tensors_) {
      const int64_t values = tensor::element_count(tensor.shape);
      result.values[tensor.dtype] += values;
      tensor.produce = [this, all, values, &done, name = tensor.name, produce = std::move(tensor.produce)](
                           const std::function<void(std::span<const std::byte>)>& write_bytes) {
        if (options_.on_progress) options_.on_progress(name, done, all);
        produce(write_bytes);
        done += values;
      };
    }
    checkpoint::write_gguf(out, tensors_, metadata_);
    result.tensors = std::ssize(tensors_);
    std::error_code ignored;
    result.file_bytes = static_cast<int64_t>(std::filesystem::file_size(out, ignored));
    if (ignored) result.file_bytes = 0;  // a pipe
    result.notes = std::move(notes_);
    return result;
  }

 private:
  // The values of scalings that GGUF keeps as what each frequency is divided by.
  void add_rope_tensors() {
    if (architecture_ == kOwn) return;
    for (const models::BlockSpec& block : spec_.blocks) {
      const layers::RopeSpec* rope = models::rope_of(spec_, block);
      if (!rope) continue;
      using Scaling = layers::RopeSpec::Scaling;
      if (rope->scaling == Scaling::llama3) {
        layers::RopeSpec plain = *rope;
        plain.scaling = Scaling::none;
        const std::vector<float> unscaled = layers::rope_table(plain).frequency;
        std::vector<float> divisors = layers::rope_table(*rope).frequency;
        for (size_t i = 0; i < divisors.size(); ++i) divisors[i] = unscaled[i] / divisors[i];
        add_floats("rope_freqs.weight", std::move(divisors));
      }
      if (rope->scaling == Scaling::longrope) {
        add_floats("rope_factors_short.weight", rope->short_factors);
        add_floats("rope_factors_long.weight", rope->long_factors);
      }
      return;
    }
  }

  void add_floats(const std::string& name, std::vector<float> values) {
    const std::vector<float>& kept = floats_[name] = std::move(values);
    tensors_.push_back(
        {name, DType::f32, {std::ssize(kept)}, [&kept](const auto& write) { write(std::as_bytes(std::span(kept))); }});
    roles_[name] = {name, Place::mixer, true, false};
  }

  void describe() {
    if (architecture_ == kOwn) {
      metadata_["general.architecture"] = architecture_;
      metadata_["general.name"] = model_.name;
      metadata_["general.quantization_version"] = uint64_t{2};
      metadata_["coterie.config"] = base::read_text(model_.path.config);
    } else {
      metadata_ = models::gguf_metadata(spec_, model_.name);
    }
    metadata_["tokenizer.ggml.model"] = std::string("no_vocab");
    if (!options_.tokenizer) return;
    if (!model_.tokenizer) {
      notes_.push_back("no tokenizer goes along: " + model_.no_tokenizer);
      return;
    }
    const std::filesystem::path file = model_.path.config.parent_path() / "tokenizer.json";
    const text::GgufExport exported = text::to_gguf(*model_.tokenizer, base::read_json(file), spec_.vocabulary);
    if (exported.vocabulary)
      models::add_vocabulary(*exported.vocabulary, metadata_);
    else
      models::add_vocabulary(whole_tokenizer(file, exported.why_not), metadata_);
    if (model_.chat_template) metadata_["tokenizer.chat_template"] = model_.chat_template->source();
  }

  text::WholeTokenizer whole_tokenizer(const std::filesystem::path& file, const std::string& why) {
    text::WholeTokenizer whole{base::read_text(file), model_.tokenizer->bos(), {}, {}};
    const std::vector<text::TokenId>& ends = model_.tokenizer->end_tokens();
    if (!ends.empty()) whole.eos = ends[0];
    if (ends.size() > 1) whole.eot = ends[1];
    const text::Tokenizer read = text::tokenizer_of(whole, file.string());
    for (const std::string_view text : text::telling_texts()) try {
        if (read.encode(text) == model_.tokenizer->encode(text)) continue;
        throw base::Error(ErrorKind::unsupported, file.string(),
                          "the files beside it change its tokens, which a GGUF cannot hold",
                          "--no-tokenizer leaves the tokenizer out");
      } catch (const base::Error& error) {
        // Characters that a vocabulary of characters has not.
        if (error.kind() == ErrorKind::unsupported) throw;
      }
    notes_.push_back("the tokenizer goes along as tokenizer.json, which other engines may not read: " + why);
    return whole;
  }

  // What a reader of the file will find, before a byte of it is written.
  ModelSpec read_back() const {
    std::vector<TensorInfo> infos;
    for (const TensorToWrite& tensor : tensors_) {
      const auto found = floats_.find(tensor.name);
      infos.push_back(
          {tensor.name, tensor.dtype, file_shape(tensor),
           found == floats_.end() ? std::span<const std::byte>() : std::as_bytes(std::span(found->second))});
    }
    const checkpoint::MemorySource<int> draft(0, std::move(infos), metadata_, checkpoint::Format::gguf,
                                              "what would be written");
    return models::read_gguf(draft, true);
  }

  // A projection to one output is a vector in GGUF.
  tensor::Shape file_shape(const TensorToWrite& tensor) const {
    return roles_.at(tensor.name).one_row && tensor.shape.size() == 2 ? tensor::Shape{tensor.shape.back()}
                                                                      : tensor.shape;
  }

  void recode(TensorToWrite& tensor, const ModelSpec& read) {
    const Role& role = roles_.at(tensor.name);
    tensor.shape = file_shape(tensor);
    tensor = recoded(std::move(tensor), format_of(role, tensor), change_of(role, read), pool_);
  }

  DType format_of(const Role& role, const TensorToWrite& tensor) const {
    const auto placed = options_.places.find(role.place);
    const bool asked = placed != options_.places.end();
    if (role.place == Place::router && asked && !role.vector) {
      if (models::too_coarse_for_a_router(placed->second))
        throw base::Error(ErrorKind::unsupported, "--at router",
                          fmt::format("a router is not written in {}: below 8 bits it chooses other experts",
                                      tensor::name(placed->second)),
                          "keep it in f32, which is a thousandth of the model");
      return models::fitting_format(placed->second, tensor.shape.back());
    }
    if (role.vector || role.one_row || role.place == Place::router) return DType::f32;
    if (asked) return models::fitting_format(placed->second, tensor.shape.back());
    if (!options_.to) return tensor.dtype;
    const bool head = role.place == Place::output_embeddings || (role.path == "embedding" && spec_.tied_embeddings);
    const bool coarse = tensor::is_block(*options_.to) && tensor::bits_per_value(*options_.to) < 8;
    return models::fitting_format(head && coarse ? DType::q6_k : *options_.to, tensor.shape.back());
  }

  Change change_of(const Role& role, const ModelSpec& read) const {
    Change change;
    const models::PathPattern path = models::path_pattern(role.path);
    change.minus_exp = minus_exp_.contains(path.pattern);
    if (role.place == Place::norms && !role.path.ends_with(".bias"))
      change.add = spec_.final_norm.weight_offset - read.final_norm.weight_offset;
    const bool q = path.pattern.find(".attention.q") != std::string::npos;
    const bool k = path.pattern.find(".attention.k") != std::string::npos;
    if ((!q && !k) || path.pattern.ends_with("_norm")) return change;
    const auto& ours = std::get<layers::AttentionSpec>(spec_.blocks[static_cast<size_t>(path.layer)].mixer);
    const auto& theirs = std::get<layers::AttentionSpec>(read.blocks[static_cast<size_t>(path.layer)].mixer);
    if (!ours.rope || ours.rope->style == theirs.rope->style) return change;
    if (theirs.rope->style != ops::RopeTable::Style::interleaved)
      base::fail(ErrorKind::unsupported, role.path, "GGUF has the rotary dimensions of this architecture in halves");
    change.head = ours.head_dim, change.turned = ours.rope->dims;
    return change;
  }

  const models::Model& model_;
  const ConvertOptions& options_;
  const ModelSpec& spec_;
  threads::Pool pool_;
  std::string architecture_;
  std::set<std::string, std::less<>> minus_exp_;
  std::map<std::string, Role> roles_;
  std::map<std::string, std::vector<float>, std::less<>> floats_;
  std::vector<TensorToWrite> tensors_;
  Metadata metadata_;
  std::vector<std::string> notes_;
};

}  // namespace

Converted convert(const models::Model& model, const std::filesystem::path& out, const ConvertOptions& options) {
  if (model.source->format() == checkpoint::Format::gguf)
    throw base::Error(ErrorKind::bad_input, model.path.path.string(), "is a GGUF file already",
                      "convert reads a folder with config.json and safetensors");
  const auto check = [](DType dtype, const char* option) {
    if (!tensor::info(dtype).weight)
      base::fail(ErrorKind::bad_input, option, "{} is no format of weights", tensor::name(dtype));
  };
  if (options.to) check(*options.to, "--to");
  for (const auto& [place, dtype] : options.places) check(dtype, "--at");
  if (out.extension() != ".gguf") base::fail(ErrorKind::bad_input, out.string(), "a GGUF file's name ends in .gguf");
  return Writer(model, options).write(out);
}

}  // namespace coterie::surgery
