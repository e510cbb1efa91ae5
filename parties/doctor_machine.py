"""The machine and the installation: platform, Python, packages, processor, memory, entropy, limits of the process."""

import os
import platform
import re
import resource
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from lianxin.parties.doctor import FAIL, OK, WARN, Line, guarded

LEAST_PYTHON = (3, 11)
LEAST_MEMORY, GOOD_MEMORY = 512 << 20, 2 << 30
LEAST_FILES = 1024
_SUPPORTED = {("Linux", "x86_64"), ("Linux", "aarch64")}
_EXTRAS = {"nn": "torch", "watch": "prometheus_client", "postgres": "psycopg"}


def look_at_machine() -> list[Line]:
    """Return a line for each thing of the machine."""
    looks = (
        ("platform", _platform), ("python", _python), ("packages", _packages), ("extras", _extras), ("arithmetic", _gmp),
        ("processor", _processor), ("memory", _memory), ("entropy", _entropy), ("limits", _limits),
    )  # fmt: skip
    return [line for what, look in looks for line in guarded(what, look, "report it with what this command shows")]


def _platform() -> Iterator[Line]:
    yield platform_line(platform.system(), platform.machine(), "microsoft" in platform.release().lower())


def platform_line(system: str, machine: str, is_wsl: bool = False) -> Line:
    """Return whether nodes are supported on such a system."""
    found = f"{system} {machine}" + (" in WSL 2" if is_wsl else "")
    if (system, machine) in _SUPPORTED:
        return Line("platform", OK, found)
    if system == "Darwin":
        return Line("platform", WARN, found, "simulate here; run nodes on Linux x86-64 or arm64")
    if system == "Windows":
        return Line("platform", FAIL, found, "install WSL 2 and run Lianxin inside it")
    return Line("platform", WARN, found, "nobody has tested this; nodes are supported on Linux x86-64 and arm64")


def _python() -> Iterator[Line]:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info < LEAST_PYTHON or sys.implementation.name != "cpython":
        yield Line("python", FAIL, found, "make the environment anew with CPython 3.11 or newer")
    elif sysconfig.get_config_var("Py_GIL_DISABLED"):
        yield Line("python", WARN, f"{found}, free-threaded", "use the ordinary build, which is the tested one")
    else:
        yield Line("python", OK, found)


def _packages() -> Iterator[Line]:
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("lianxin") or ()]
    odd = []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            odd.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(version, prereleases=True):
            odd.append(f"{one.name} is {version} and {one.specifier} is asked for")
    if odd:
        yield Line("packages", FAIL, "; ".join(odd), "install lianxin again with its constraints file")
    else:
        yield Line("packages", OK, f"lianxin {metadata.version('lianxin')} and all that it needs")


def _extras() -> Iterator[Line]:
    here = [name for name, module in _EXTRAS.items() if find_spec(module) is not None]
    absent = sorted(set(_EXTRAS) - set(here))
    yield Line(
        "extras", OK, f"{', '.join(here) or 'none'} installed" + (f"; not {', '.join(absent)}" if absent else "")
    )


def _gmp() -> Iterator[Line]:
    import gmpy2

    yield Line("arithmetic", OK, f"gmpy2 {gmpy2.version()} on {gmpy2.mp_version()}")


def _processor() -> Iterator[Line]:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = set(match[1].split()) if (match := re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)) else set()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    known = [name for name in ("aes", "avx2", "adx", "bmi2", "avx512f", "asimd") if name in flags]
    found = f"{cores} core{'s' if cores > 1 else ''}; {' '.join(known) or 'no flags known'}"
    if flags and "aes" not in flags:
        yield Line(
            "processor", WARN, f"{found}; no AES instructions", "TLS is slow here; let the virtual machine pass them on"
        )
    else:
        yield Line("processor", OK, found)


def _memory() -> Iterator[Line]:
    text = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    whole, free = _bounded(sizes.get("MemTotal", 0)), sizes.get("MemAvailable", 0)
    if not whole:
        yield Line("memory", WARN, "its size is not known here", "give the node 2 GiB")
        return
    found = f"{whole / 2**30:.1f} GiB, {min(free, whole) / 2**30:.1f} GiB free"
    if min(free, whole) < LEAST_MEMORY:
        yield Line("memory", FAIL, found, "a run needs 512 MiB at least; stop other programs or give the machine more")
    elif min(free, whole) < GOOD_MEMORY:
        yield Line("memory", WARN, found, "enough for small runs; give the node 2 GiB")
    else:
        yield Line("memory", OK, found)


def _bounded(whole: int) -> int:
    """Return the memory of the machine or what a container leaves of it, whichever is less."""
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.exists() else ""
    return min(whole, int(text)) if text.isdigit() and whole else whole


def _entropy() -> Iterator[Line]:
    path = Path("/proc/sys/kernel/random/entropy_avail")
    bits = int(path.read_text()) if path.exists() else 256
    if bits < 128:
        yield Line(
            "entropy", WARN, f"{bits} bits", "the machine has just been started; wait, or install a source of entropy"
        )
    else:
        yield Line("entropy", OK, "the system's generator is seeded")


def _limits() -> Iterator[Line]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        yield Line("limits", WARN, f"{files} open files", f"set LimitNOFILE={LEAST_FILES} or more in the unit")
    else:
        yield Line("limits", OK, f"{'unlimited' if files == resource.RLIM_INFINITY else files} open files")
