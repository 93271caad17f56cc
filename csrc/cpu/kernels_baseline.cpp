// The kernels for whatever every machine of this architecture has: 16-byte vectors (SSE2, NEON).
#include "vec_includes.h"

#define ARCHLOOM_ISA baseline
#define ARCHLOOM_VECTOR_BYTES 16
#include "kernels.inc"

namespace archloom {
const Kernels* kernels_baseline() { return &baseline::table; }
}  // namespace archloom
