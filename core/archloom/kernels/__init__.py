"""The compiled kernels of csrc/: which of them run (`loading`), what PyTorch is told of them, how fast they
are.

Importing this loads nothing and imports no torch; `status()` does, at its first call.
"""

from .loading import (
    OPERATIONS,
    Status,
    allocator,
    build_info,
    info,
    instruction_set,
    instruction_sets,
    keep_freed_memory,
    library,
    say_fallback,
    select_instruction_set,
    status,
)

__all__ = [
    "OPERATIONS",
    "Status",
    "allocator",
    "build_info",
    "info",
    "instruction_set",
    "instruction_sets",
    "keep_freed_memory",
    "library",
    "say_fallback",
    "select_instruction_set",
    "status",
]
