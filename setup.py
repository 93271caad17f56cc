"""Says where the packages lie: two source roots, `core/` and `plugins/`, one distribution."""

from setuptools import find_packages, setup

CORE = find_packages("core")
PLUGINS = find_packages("plugins")

setup(
    packages=CORE + PLUGINS,
    package_dir={"": "core"} | {name: f"plugins/{name.replace('.', '/')}" for name in PLUGINS},
    package_data={"archloom": ["py.typed"]} | {name: ["*.json", "*.yaml"] for name in PLUGINS},
)
