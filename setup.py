"""Find the packages: `mi_helpers`, and `data`, which is installed as `mi_data`."""

from setuptools import find_packages, setup

data = [f"mi_data.{name}" for name in find_packages("data")]
setup(packages=[*find_packages(include=["mi_helpers", "mi_helpers.*"]), "mi_data", *data])
