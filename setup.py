"""Maps the top-level folders onto one import package: compiler is olc, rewrites is olc.rewrites, frontends is olc.frontends."""

from setuptools import find_packages, setup

roots = {"olc": "compiler", "olc.rewrites": "rewrites", "olc.frontends": "frontends"}
packages = [
    package
    for name, folder in roots.items()
    for package in [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
]
setup(
    package_dir=roots,
    packages=packages,
    package_data={"olc": ["py.typed"], "olc.targets": ["*.json"], "olc.report": ["*.j2"]},
)
