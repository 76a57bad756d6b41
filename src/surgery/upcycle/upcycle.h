#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "families/open.h"
#include "ops/context.h"
#include "surgery/write/model_folder.h"
#include "surgery/write/written.h"

namespace coterie::surgery {

struct UpcycleOptions {
  int64_t experts = 8;            // E, of the mixture
  int64_t experts_per_token = 2;  // K
  /// Each expert is one of G equal parts of the parent's FFN, so that E / G copies of it are there; the G experts of a
  /// copy share one row of the router, so that K = G chosen experts are one whole copy (virtual groups: He et al. 2024,
  /// arXiv:2410.07524 §3.2).
  int64_t granularity = 1;
  /// What undoes that chosen experts are weighted down (by 1/K where gates are renormalised) and each is only a part:
  /// the product of the scales of an expert's matrices is A = G / (the sum of the chosen's weights when all logits are
  /// equal).
  enum class Scaling {
    exact,     // √A on each of up and down, in which a gated FFN is linear; A on down where there is no gate
    megatron,  // A^(1/3) on gate, up and down, A^(1/2) on up and down without a gate: Megatron's rule (§3.3 there)
    none,
  } scaling = Scaling::exact;
  double noise = 0;               // of each value of an expert: N(0, noise² × the matrix' variance)
  double reinit = 0;              // share of each expert's hidden units drawn anew (Drop-Upcycling, arXiv:2502.19261)
  double router_std = 0.02;       // of the router's rows
  std::vector<bool> layers = {};  // that get experts; empty: all
  base::Json router = base::Json::object();  // keys of read_router beside experts, experts_per_token; renormalise: true
  enum class Shared {
    automatic,  // none; `idle` where the family must have one
    none,
    copy,  // the parent's FFN once more, which gives half of the sum and the chosen experts the other half
    idle,  // a new one that starts with a down projection of zeros, and so with no effect
  } shared = Shared::automatic;
  int64_t shared_hidden = 0;                // F of an idle one; 0: 256, or the parent's where that is less
  std::string model_type = {};              // to write; empty: families::published_mixture()
  std::optional<tensor::DType> dtype = {};  // f32, f16 or bf16; nothing: as each tensor is
  uint64_t seed = 0;
  int64_t shard_bytes = 5'000'000'000;
  bool check = true;      // run both and compare
  std::string text = {};  // to compare on
  int64_t tokens = 128;
  OnProgress on_progress = {};
};

struct Upcycled : Written {
  int64_t parent_parameters = 0;
  double scale = 1;  // A
};

/// Makes a mixture of experts out of a dense model (Komatsuzaki et al. 2023, arXiv:2212.05055) and writes it as a
/// Hugging Face folder with the tokenizer and receipt.json; tensor by tensor, and under a temporary name until it is
/// whole. Then both models are run and compared. The bits depend on the options and not on the threads.
///
/// Throws bad_input, naming the option, for numbers that do not go together; unsupported, naming the field, where the
/// family written cannot say something of the parent (published_mixture.h); io with nothing left behind.
Upcycled upcycle(ops::Context& context, const families::Model& dense, const std::filesystem::path& out,
                 const UpcycleOptions& options);

}  // namespace coterie::surgery
