#include "surgery/write/roles.h"

#include "base/error.h"
#include "families/family.h"

namespace coterie::surgery {

namespace {

class Collector : public layers::TensorReader {
 public:
  Collector(const families::NameTable& names, const checkpoint::TensorSource* source)
      : names_(names), source_(source) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t, const tensor::Weight&) override {
    add({tensor.path, tensor.place, false, rows == 1}, 1);
  }
  void vector(const Tensor& tensor, int64_t, const layers::Vector&) override {
    add({tensor.path, tensor.place, true, false}, 1);
  }
  void stack(const Tensor& tensor, int64_t items, int64_t, int64_t, const std::vector<tensor::Weight>&) override {
    add({tensor.path, tensor.place, false, false, items}, items);
  }
  void vectors(const Tensor& tensor, int64_t experts, int64_t, const layers::Vector&) override {
    add({tensor.path, tensor.place, true, false, experts}, experts);
  }
  Roles roles;

 private:
  void add(Role role, int64_t items) {
    const auto [pattern, layer, item] = families::path_pattern(role.path);
    const std::vector<families::NameInFile>* names = names_.find(pattern);
    if (!names) base::fail(base::ErrorKind::unsupported, "GGUF", "there is no name for {}", role.path);
    for (const families::NameInFile& name : *names) {
      role.pattern = name.pattern;
      if (name.pattern.find("{expert}") == std::string::npos) {
        put(families::expand(name.pattern, layer, -1, item), role);
      } else {
        Role one = role;
        one.items = 1;
        for (one.expert = 0; one.expert < items; ++one.expert)
          put(families::expand(name.pattern, layer, one.expert, item), one);
      }
      if (!source_) return;
    }
  }
  void put(const std::string& name, const Role& role) {
    if (!source_ || source_->find(name)) roles[name] = role;
  }

  const families::NameTable& names_;
  const checkpoint::TensorSource* source_;
};

}  // namespace

Roles roles_to_write(const models::Decoder& decoder, const families::NameTable& names) {
  Collector collector(names, nullptr);
  decoder.read(collector);
  return std::move(collector.roles);
}

Roles roles_in(const checkpoint::TensorSource& source, const models::Decoder& decoder,
               const families::NameTable& names) {
  Collector collector(names, &source);
  decoder.read(collector);
  return std::move(collector.roles);
}

std::vector<const checkpoint::TensorInfo*> tensors_to_keep(const checkpoint::TensorSource& source,
                                                           const models::Decoder& decoder, bool tied_embeddings) {
  const families::NameTable names = families::names_for(decoder.spec(), source);
  const std::string head = names.find("head") ? names.find("head")->front().pattern : "";
  const Roles read = roles_in(source, decoder, names);
  std::vector<const checkpoint::TensorInfo*> kept;
  for (const checkpoint::TensorInfo& info : source.tensors())
    if ((!names.is_inert(info.name) || read.contains(info.name)) && !(tied_embeddings && info.name == head))
      kept.push_back(&info);
  return kept;
}

}  // namespace coterie::surgery
