"""Where replay finds a party's evidence: in a run's folder as it is, or in packs, unpacked for as long as it takes."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.auditor_pack import PackFault, unpack
from lianxin.parties.opening import read_opening


@contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder with `parties/<party>/evidence` of a run folder or of packs.

    Raises InputFault for a path that is neither, EvidenceRejected for a pack that does not hold.
    """
    if len(paths) == 1 and (paths[0] / "parties").is_dir():
        yield paths[0]
        return
    with tempfile.TemporaryDirectory(prefix="lianxin-unpacked-") as place:
        for path in paths:
            if not path.is_file():
                raise InputFault(
                    f"{path} is neither the folder of a run nor a pack; `lianxin audit export` writes packs"
                )
            try:
                unpack(path, Path(place))
            except PackFault as fault:
                raise EvidenceRejected(f"{path}: {fault}") from None
        yield Path(place)


@contextmanager
def home_of(paths: Sequence[Path], opening: Path) -> Iterator[Path]:
    """Yield the folder with the evidence of the party that opened. Raises InputFault where it is in none of `paths`."""
    party = read_opening(opening).party
    with unpacked(paths) as folder:
        home = folder / "parties" / party
        if not (home / "evidence").is_dir():
            raise InputFault(f"no evidence of {party}, whose opening this is, is in what was given; add its pack")
        yield home
