// What is no operator: how the kernels were built, which instruction sets run, and glibc's allocator.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace py = pybind11;

namespace {

// A symbol of the operators' library, which PyTorch has loaded already: state lives there, once.
template <class F>
F* symbol(const std::string& library, const char* name) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  void* found = handle ? dlsym(handle, name) : nullptr;
  if (!found) throw std::runtime_error(library + " is not loaded, or lacks " + name);
  return reinterpret_cast<F*>(found);
}

std::string isa_available(const std::string& library) {
  return symbol<const char*()>(library, "archloom_isa_available")();
}

std::string isa_selected(const std::string& library) {
  return symbol<const char*()>(library, "archloom_isa_selected")();
}

bool isa_select(const std::string& library, const std::string& name) {
  return symbol<int(const char*)>(library, "archloom_isa_select")(name.c_str()) == 0;
}

// mallopt takes an int: the largest is 2 GiB - 1. Larger blocks go to mmap still. Returns whether all held.
bool keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int most = 2147483647;
  return mallopt(M_MMAP_THRESHOLD, most) == 1 && mallopt(M_TRIM_THRESHOLD, most) == 1 &&
         mallopt(M_TOP_PAD, 1 << 28) == 1;
#else
  return false;
#endif
}

py::dict build_info() {
  py::dict info;
#if defined(__VERSION__)
  info["compiler"] = __VERSION__;
#endif
  info["cplusplus"] = long(__cplusplus);
  info["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "How archloom's kernels were built, the CPU's instruction sets, and glibc's allocator.";
  m.def("build_info", &build_info);
  m.def("isa_available", &isa_available, py::arg("library"));
  m.def("isa_selected", &isa_selected, py::arg("library"));
  m.def("isa_select", &isa_select, py::arg("library"), py::arg("name"));
  m.def("keep_freed_memory", &keep_freed_memory);
}
