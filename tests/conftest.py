"""The folders of tests bear the names of the packages that they test. pytest puts this folder first on
the path, so without what follows `import archloom_fbnet` could find tests/archloom_fbnet, not the plugin."""

import importlib
import importlib.metadata
import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)
_path = list(sys.path)
sys.path[:] = [entry for entry in sys.path if entry != _HERE]
for _point in importlib.metadata.entry_points(group="archloom"):
    if (Path(_HERE) / _point.module.split(".")[0]).is_dir():
        importlib.import_module(_point.module.split(".")[0])
sys.path[:] = _path
