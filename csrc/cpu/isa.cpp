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

const Set* sets() {
  static const Set all[] = {
      {"baseline", kernels_baseline()}, {"avx2", kernels_avx2()}, {"avx512", kernels_avx512()}, {nullptr, nullptr}};
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
