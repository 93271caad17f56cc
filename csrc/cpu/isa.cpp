// Which table of kernels runs: decided once, when first asked.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels.h"

namespace archloom {
namespace {

struct Set {
  const char* name;
  const Kernels* table;
};

// What memory bounds gains nothing from 512-bit accesses, and processors that split their stores lose 5 to 15 %
// by them. So these kernels stay at AVX2's width, except in the types whose conversion is work of its own.
const Kernels& for_memory(Dtype dtype) {
  return dtype == Dtype::f32 || dtype == Dtype::f64 ? *kernels_avx2() : *kernels_avx512();
}

const Kernels* avx512() {
  if (!kernels_avx512() || !kernels_avx2()) return kernels_avx512();
  static const Kernels joined = [] {
    Kernels table = *kernels_avx512();
    table.scale_add = [](Dtype dtype, void* y, const void* x, const void* skip, double scale, Index n, bool stream) {
      for_memory(dtype).scale_add(dtype, y, x, skip, scale, n, stream);
    };
    table.mixed_sum = [](Dtype dtype, void* y, const void* const* xs, const double* weights, Index count, Index begin,
                         Index end, bool stream) {
      for_memory(dtype).mixed_sum(dtype, y, xs, weights, count, begin, end, stream);
    };
    return table;
  }();
  return &joined;
}

const Set* sets() {
  static const Set all[] = {
      {"baseline", kernels_baseline()}, {"avx2", kernels_avx2()}, {"avx512", avx512()}, {nullptr, nullptr}};
  return all;
}

const Set* find(const char* name) {
  const Set* found = nullptr;
  const bool best = std::strcmp(name, "auto") == 0;
  for (const Set* set = sets(); set->name; ++set)
    if (set->table && (best || std::strcmp(set->name, name) == 0)) found = set;
  return found;
}

const Set* initial() {
  const char* wish = std::getenv("ARCHLOOM_CPU_CAPABILITY");
  if (!wish || !*wish) return find("auto");
  if (const Set* set = find(wish)) return set;
  std::fprintf(
      stderr, "archloom: ARCHLOOM_CPU_CAPABILITY=%s cannot run here (%s can); using the best\n", wish,
      archloom_isa_available());
  return find("auto");
}

std::atomic<const Set*>& current() {
  static std::atomic<const Set*> set{initial()};
  return set;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed)->table; }

}  // namespace archloom

extern "C" {

const char* archloom_isa_available() {
  static const std::string names = [] {
    std::string joined;
    for (const archloom::Set* set = archloom::sets(); set->name; ++set)
      if (set->table) joined += (joined.empty() ? "" : ",") + std::string(set->name);
    return joined;
  }();
  return names.c_str();
}

const char* archloom_isa_selected() { return archloom::current().load()->name; }

int archloom_isa_select(const char* name) {
  const archloom::Set* set = archloom::find(name);
  if (!set) return 1;
  archloom::current().store(set);
  return 0;
}
}
