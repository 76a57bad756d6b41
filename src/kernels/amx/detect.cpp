#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/isa.h"

namespace coterie::kernels::amx {

// By CPUID itself: __builtin_cpu_supports of GCC 12 knows the names of AMX and says no wherever it is asked.
Features features() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return {};
  return {(d >> 24 & 1) != 0, (d >> 25 & 1) != 0};
}

bool permitted() {
  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), for the process and all its threads; Linux 5.16 and later.
  constexpr long kRequest = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace coterie::kernels::amx
