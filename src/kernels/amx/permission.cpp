#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/isa.h"

namespace coterie::kernels::amx {

bool permitted() {
  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), for the process and all its threads; Linux 5.16 and later.
  constexpr long kRequest = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace coterie::kernels::amx
