#include "comm/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "base/error.h"

namespace coterie::comm {
namespace {

std::optional<Launch> launch_of(const std::map<std::string, const char*>& variables) {
  return read_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second;
  });
}

TEST(Launch, IsReadFromTheEnvironment) {
  EXPECT_FALSE(launch_of({}));
  EXPECT_FALSE(launch_of({{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}}));
  EXPECT_FALSE(launch_of({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}})) << "a batch script is one process";
  const auto open = launch_of({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "2"}});
  ASSERT_TRUE(open);
  EXPECT_EQ(open->module, "openmpi");
  EXPECT_EQ(open->rank, 2);
  EXPECT_EQ(open->size, 4);
  const auto mpich = launch_of({{"PMI_SIZE", "2"}, {"PMI_RANK", "1"}});
  ASSERT_TRUE(mpich);
  EXPECT_EQ(mpich->module, "mpich");
  const auto slurm = launch_of({{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "3"}});
  ASSERT_TRUE(slurm);
  EXPECT_EQ(slurm->launcher, "srun");
}

TEST(Launch, ABuildWithoutTheModuleSaysHowToGetIt) {
  try {
    join({"Open MPI's mpirun", "none", 0, 4});
    FAIL();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::unsupported);
    EXPECT_NE(error.message().find("has started 4 ranks, but this build has no MPI"), std::string::npos)
        << error.message();
    EXPECT_NE(error.hint().find("libopenmpi-dev"), std::string::npos);
  }
}

}  // namespace
}  // namespace coterie::comm
