#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "comm/launch.h"
#include "families/open.h"
#include "runtime/ranks/split.h"
#include "train/ranks/team.h"

// mpirun -n 4 coterie COMMAND …: every rank reads the same command line. Rank 0 does the command, reads, prints and
// writes; the others open the model when it does, with their own experts alone, and answer it until it is done.
// Training is done by all of them: each has samples of its own.
namespace coterie::cli {

/// A command's options of the model it runs, by which the other ranks know what to open.
void remember_model_options(const CLI::App& command, const ModelOptions& options);

/// Called first of all: a rank other than 0 says nothing from here on.
void silence_unless_first(const comm::Launch& launch);
/// Joins the ranks, and does the command on rank 0 or serves it on the others. Returns the exit code. Throws
/// unsupported for commands that run on one rank alone.
int run_on_ranks(const comm::Launch& launch, const CLI::App& app, const Action& action);

/// Whether this process is one of several ranks.
bool on_ranks();
/// How many there are; 1 without a launcher.
int ranks();
/// The threads that a rank uses where none were asked for: 0, as many as there are cores, where it has its host alone.
int threads_of_rank(int asked);

/// The ranks that train together, for commands that all ranks do (train, tune); null where this process is alone.
/// `options` reads what the ranks begin with and returns as text what decides bits, which must be the same on all;
/// where it throws, all throw the first rank's error, by name. All use the instruction set that each of them has.
train::Team* join_training(const std::function<std::string()>& options);
/// Opens a model for an engine: families::open_model, and where there are other ranks they open it, too, and all have
/// agreed that it is the same. Throws the first rank's error by name.
families::Model open_for_engine(const ModelOptions& options);
/// Throws io where a rank of this host has ended, or one has not answered: what a server on ranks asks now and then.
void require_all_ranks();
/// How the model is divided that was opened last.
runtime::Split split_of_ranks();
/// What an engine of such a model is to be given (ModelOptions::engine_options calls it).
void add_ranks(runtime::EngineOptions& options);

}  // namespace coterie::cli
