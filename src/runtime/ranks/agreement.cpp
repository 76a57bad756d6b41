#include "runtime/ranks/agreement.h"

#include <fmt/format.h>
#include <gnu/libc-version.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/fnv.h"
#include "base/json.h"
#include "comm/error_text.h"
#include "kernels/table.h"
#include "runtime/version.h"

namespace coterie::runtime {

using base::Error;
using base::ErrorKind;

namespace {

class Hash {
 public:
  void bytes(const void* data, size_t size) {
    const auto* at = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) value_ = base::fnv_step(value_, at[i]);
  }
  void text(std::string_view text) { bytes(text.data(), text.size()), number(static_cast<int64_t>(text.size())); }
  void number(int64_t number) { bytes(&number, sizeof number); }
  std::string result() const { return fmt::format("{:016x}", value_); }

 private:
  uint64_t value_ = base::kFnvBegin;
};

/// The first bytes of a file: a config, or the header of a GGUF file and what it says of the model.
void add_beginning(const std::filesystem::path& path, Hash& hash) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes(1 << 20);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  hash.bytes(bytes.data(), static_cast<size_t>(file.gcount()));
}

std::string usable_isas() {
  std::string names;
  for (const kernels::Candidate& candidate : kernels::candidates())
    if (candidate.usable) names += (names.empty() ? "" : " ") + std::string(candidate.table->isa);
  return names;
}

bool has_word(const std::string& words, const std::string& word) {
  std::istringstream all(words);
  for (std::string one; all >> one;)
    if (one == word) return true;
  return false;
}

/// The first of rank 0's that all have. The scalar kernels are everybody's.
std::string common_isa(const std::vector<base::Json>& all) {
  std::istringstream best_first(all.front().at("isas").get<std::string>());
  for (std::string isa; best_first >> isa;)
    if (std::all_of(all.begin(), all.end(), [&](const base::Json& one) { return has_word(one.at("isas"), isa); }))
      return isa;
  return "scalar";
}

void require_same(const comm::Ranks& ranks, const std::vector<base::Json>& all, const char* key, const char* what,
                  const char* hint) {
  for (int r = 1; r < std::ssize(all); ++r) {
    const std::string first = all.front().at(key), other = all[static_cast<size_t>(r)].at(key);
    if (first != other)
      throw Error(ErrorKind::bad_input, ranks.describe(r),
                  fmt::format("{} \"{}\", {} \"{}\"", what, other, ranks.describe(0), first), hint);
  }
}

}  // namespace

std::string fingerprint_of(const families::Model& model) {
  Hash hash;
  const std::span<const checkpoint::TensorInfo> tensors = model.source->tensors();
  hash.number(model.source->file_bytes());
  // Every tensor's bytes would be the whole file: those of some dozens, spread over it.
  constexpr size_t kSamples = 64, kBytes = 256;
  const size_t every = std::max<size_t>(tensors.size() / kSamples, 1);
  for (size_t i = 0; i < tensors.size(); ++i) {
    hash.text(tensors[i].name), hash.number(static_cast<int64_t>(tensors[i].dtype));
    for (const int64_t size : tensors[i].shape) hash.number(size);
    if (i % every == 0 && tensors[i].bytes.data())
      hash.bytes(tensors[i].bytes.data(), std::min(kBytes, tensors[i].bytes.size()));
  }
  add_beginning(model.path.kind == checkpoint::ModelPath::Kind::gguf_file ? model.path.path : model.path.config, hash);
  return hash.result();
}

std::string agree(comm::Ranks& ranks, const Introduction& own) {
  const char* const forced = std::getenv("COTERIE_ISA");
  const base::Json introduction = {{"version", version()},
                                   {"libc", ::gnu_get_libc_version()},
                                   {"options", own.options},
                                   {"forced", forced ? forced : ""},
                                   {"isas", own.isas.empty() ? usable_isas() : own.isas},
                                   {"files", own.files},
                                   {"error", own.error}};
  std::vector<base::Json> all;
  std::vector<std::string> errors;
  for (const std::string& text :
       ranks.all_gather(introduction.dump(-1, ' ', false, base::Json::error_handler_t::replace))) {
    all.push_back(base::Json::parse(text));
    errors.push_back(all.back().at("error"));
  }
  require_same(ranks, all, "version", "is Coterie", "install one version on every host");
  comm::throw_first(ranks, errors);
  require_same(ranks, all, "options", "was started with", "start every rank with the same options");
  require_same(ranks, all, "forced", "has COTERIE_ISA", "set it for all ranks or for none (mpirun -x COTERIE_ISA)");
  require_same(ranks, all, "files", "has opened a model with the fingerprint",
               "the same files must lie on every host, under the name that was given");
  require_same(ranks, all, "libc", "has the C library",
               "its mathematical functions decide bits: use the same on all hosts");
  return forced ? forced : common_isa(all);
}

void together(comm::Ranks& ranks, const std::function<void()>& body) {
  std::string error;
  std::exception_ptr own;
  try {
    body();
  } catch (const Error& thrown) {
    own = std::current_exception();
    error = comm::error_text(thrown);
  }
  const std::vector<std::string> errors = ranks.all_gather(error);
  if (own) std::rethrow_exception(own);
  comm::throw_first(ranks, errors);
}

}  // namespace coterie::runtime
