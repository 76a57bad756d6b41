#include "comm/launch.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "comm/mpi_module.h"

namespace coterie::comm {

using base::Error;
using base::ErrorKind;

namespace {

std::optional<int> number(const char* text) {
  if (!text) return {};
  int value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc()) return {};
  return value;
}

constexpr const char* kModules = "COTERIE_MPI_MODULES";

std::vector<std::filesystem::path> places() {
  std::vector<std::filesystem::path> all;
  if (const char* folder = std::getenv(kModules)) all.emplace_back(folder);
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  if (error) return all;
  all.push_back(program);
  all.push_back(program.parent_path() / "lib" / "coterie");
  return all;
}

}  // namespace

std::optional<Launch> read_launch(const std::function<const char*(const char*)>& variable) {
  struct Names {
    const char *launcher, *module, *size, *rank;
  };
  // srun's own come last: with --mpi=pmix or pmi2 it sets what MPI reads, too. SLURM_NTASKS is not asked: a batch
  // script has it, and is one process.
  constexpr Names kLaunchers[] = {
      {"Open MPI's mpirun", "openmpi", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
      {"MPICH's mpirun", "mpich", "PMI_SIZE", "PMI_RANK"},
      {"srun", "openmpi", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
  };
  for (const Names& names : kLaunchers) {
    const std::optional<int> size = number(variable(names.size)), rank = number(variable(names.rank));
    if (!size || !rank) continue;
    if (*size <= 1) return {};
    return Launch{names.launcher, names.module, *rank, *size};
  }
  return {};
}

std::optional<Launch> read_launch() {
  return read_launch([](const char* name) { return std::getenv(name); });
}

std::unique_ptr<Communicator> join(const Launch& launch) {
  const std::string file = fmt::format("libcoterie_{}.so", launch.module);
  void* module = nullptr;
  std::string looked_for;
  for (const std::filesystem::path& folder : places()) {
    const std::filesystem::path path = folder / file;
    std::error_code error;
    looked_for += (looked_for.empty() ? "" : ", ") + path.string();
    if (!std::filesystem::exists(path, error)) continue;
    // An MPI's plugins look for its symbols among those of the program.
    module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!module) {
      const char* const why = ::dlerror();
      throw Error(ErrorKind::unsupported, path.string(), fmt::format("cannot be loaded: {}", why ? why : "no reason"),
                  "the MPI that it was built for has to be installed on every host");
    }
    break;
  }
  if (!module)
    throw Error(
        ErrorKind::unsupported, launch.launcher,
        fmt::format("has started {} ranks, but this build has no MPI: there is no {}", launch.size, looked_for),
        "build Coterie where the packages of that MPI are installed (libopenmpi-dev, libmpich-dev), or start it "
        "without the launcher");
  auto* const start = reinterpret_cast<StartMpi>(::dlsym(module, "coterie_start_mpi"));
  if (!start) throw Error(ErrorKind::unsupported, file, "is not a module of Coterie");
  std::unique_ptr<Communicator> ranks;
  try {
    ranks.reset(start());
  } catch (const std::runtime_error& error) {
    throw Error(ErrorKind::io, launch.launcher, error.what());
  }
  if (ranks->size() == launch.size) return ranks;
  throw Error(ErrorKind::unsupported, launch.launcher,
              fmt::format("has started {} processes, but {} finds {} of them: each would be a run of its own",
                          launch.size, ranks->name(), ranks->size()),
              launch.launcher == "srun" ? "srun --mpi=pmix joins them, where Slurm was built with PMIx"
                                        : "start them with the mpirun of the MPI they were built for");
}

}  // namespace coterie::comm
