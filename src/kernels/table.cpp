#include "kernels/table.h"

#include <array>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "kernels/isa.h"

namespace coterie::kernels {

namespace {

using base::ErrorKind;

constexpr std::string_view kVariable = "COTERIE_ISA";

struct Registry {
  std::array<KernelTable, 1> tables;
  std::vector<Candidate> candidates;

  Registry() {
    tables[0] = {"scalar", scalar::matmul_kernels(), scalar::vector_kernels(), scalar::attention_kernels()};
    candidates.push_back({&tables[0], true, ""});
  }
};

const Registry& registry() {
  static const Registry instance;
  return instance;
}

const KernelTable& named(std::string_view isa, std::string_view where) {
  std::string names;
  for (const Candidate& candidate : candidates()) {
    if (candidate.table->isa == isa) {
      if (!candidate.usable) {
        throw base::Error(ErrorKind::unsupported, std::string(where), fmt::format("\"{}\" {}", isa, candidate.reason),
                          "leave it unset to use the best one that this CPU has");
      }
      return *candidate.table;
    }
    names += names.empty() ? "" : ", ";
    names += candidate.table->isa;
  }
  throw base::Error(ErrorKind::bad_input, std::string(where),
                    fmt::format("expected one of {}, found \"{}\"", names, isa));
}

}  // namespace

std::span<const Candidate> candidates() { return registry().candidates; }

const KernelTable& by_name(std::string_view isa) { return named(isa, "instruction set"); }

const KernelTable& select() {
  const char* forced = std::getenv(kVariable.data());
  if (forced != nullptr && *forced != '\0') return named(forced, kVariable);
  for (const Candidate& candidate : candidates())
    if (candidate.usable) return *candidate.table;
  base::fail(ErrorKind::internal, "kernels", "the scalar table is missing");
}

}  // namespace coterie::kernels
