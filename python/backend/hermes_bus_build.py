"""Builds the wheel: maturin's work, with the programs put into it.

maturin builds the extension module, and takes whatever lies in its data directory into the wheel. What this adds is to
build the programs and to lay them there, and to put all the sources that this needs into a source distribution.
"""
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import maturin

PROGRAMS = ("hermes-busd", "hermes-bus-server", "hermes-bus")
HERE = Path(__file__).resolve().parent.parent
WORKSPACE = HERE.parent
SCRIPTS = HERE / "build" / "hermes_bus.data" / "scripts"
#: What a source distribution needs besides this directory.
SOURCES = ("Cargo.toml", "Cargo.lock", "LICENSE", "crates")
LEFT_OUT = {"target", "build", "dist", "__pycache__", ".pytest_cache", ".mypy_cache", "tests", "notify", ".venv"}


def _target() -> Path:
    """One directory for the programs and the extension: what both need is built once."""
    chosen = os.environ.get("CARGO_TARGET_DIR")
    return Path(chosen).absolute() if chosen else WORKSPACE / "target"


def _run(*command: object) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    except FileNotFoundError:
        raise SystemExit("cargo was not found: to build this package from its sources, install Rust (https://rustup.rs)")
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the build failed: {error}")


def _lay_out_programs() -> None:
    os.environ["CARGO_TARGET_DIR"] = str(_target())
    names = [part for name in PROGRAMS for part in ("--bin", name)]
    _run("cargo", "build", "--release", "--locked", "--manifest-path", WORKSPACE / "Cargo.toml", "-p", "hermes-bus", *names)
    shutil.rmtree(SCRIPTS, ignore_errors=True)
    SCRIPTS.mkdir(parents=True)
    for name in PROGRAMS:
        shutil.copy2(_target() / "release" / name, SCRIPTS / name)
        if shutil.which("strip"):
            _run("strip", SCRIPTS / name)


def _in_place(step):
    """maturin looks for its project in the current directory; that of a source distribution is one level up."""

    def there(directory, *arguments):
        before = os.getcwd()
        directory = os.path.abspath(directory)
        os.chdir(HERE)
        try:
            return step(directory, *arguments)
        finally:
            os.chdir(before)

    return there


@_in_place
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _lay_out_programs()
    return maturin.build_wheel(wheel_directory, config_settings)


@_in_place
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _lay_out_programs()
    return maturin.build_editable(wheel_directory, config_settings)


@_in_place
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_editable = get_requires_for_build_sdist = get_requires_for_build_wheel


@_in_place
def build_sdist(sdist_directory, config_settings=None):
    """The workspace as it is, with this directory in its place, and beside them what says how to build it."""
    with tempfile.TemporaryDirectory() as temporary:
        SCRIPTS.mkdir(parents=True, exist_ok=True)
        metadata = Path(temporary) / maturin.prepare_metadata_for_build_wheel(temporary, config_settings) / "METADATA"
        version = next(line.split()[1] for line in metadata.read_text().splitlines() if line.startswith("Version: "))
        name = f"hermes_bus-{version}"
        project = (HERE / "pyproject.toml").read_text()
        inside = project.replace('backend-path = ["backend"]', 'backend-path = ["python/backend"]')
        assert inside != project
        outer = Path(temporary) / "pyproject.toml"
        # Only what pip reads: the rest is in the directory in which maturin works.
        outer.write_text(inside[: inside.index("[project]")])
        with tarfile.open(Path(sdist_directory) / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(metadata, f"{name}/PKG-INFO")
            archive.add(outer, f"{name}/pyproject.toml")
            for source in SOURCES:
                archive.add(WORKSPACE / source, f"{name}/{source}", filter=_wanted)
            archive.add(HERE, f"{name}/python", filter=_wanted)
    return f"{name}.tar.gz"


def _wanted(entry):
    parts = Path(entry.name).parts[1:]
    # Tests of the crates are no part of it, but Cargo wants to see the workspace's members whole.
    left_out = LEFT_OUT.intersection(parts) if parts[:1] == ("python",) else {"target"}.intersection(parts)
    return None if left_out else entry
