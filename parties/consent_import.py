"""From bytes to checked records: decoding, schema and signatures of a block of lines, in this process or in workers.

1. A line is the canonical encoding of a signed record, or it is refused (`canonical`).
2. The record fits its closed schema (`consent_schema`).
3. Exactly the signers that it names have signed the bytes that came in; nothing is encoded again for that.

What a worker returns is small: what the registry keeps of the record, the record's digest, and whose keys signed. Whether
those keys are the registered ones, and whether the record fits the registry, is the register's own part.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any, NamedTuple

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError, EncodingRejected
from lianxin.parties.consent_schema import check_any_record
from lianxin.parties.decision import ConsentRejected
from lianxin.parties.decision_consents import essence_of
from lianxin.parties.decision_signers import Grantor, Signer, check_signatures, grantors_of

BLOCK = 500
BLOCKS_AHEAD = 8
_HEAD, _SIGNATURES = b'{"record":', b',"signatures":['


class Checked(NamedTuple):
    """What is known of one record once it is checked: see `essence_of`, `Signer` and `Grantor`."""

    essence: dict[str, Any]
    digest: bytes
    signers: tuple[Signer, ...]
    grantors: tuple[Grantor, ...] = ()


def record_bytes(line: bytes) -> bytes:
    """Return the canonical bytes of the record inside the canonical bytes of a signed record.

    Keys are sorted and quotes inside texts are escaped, so that the last `,"signatures":[` ends the record. Raises
    ConsentRejected for bytes of another shape; that they are canonical is for the caller to know.
    """
    end = line.rfind(_SIGNATURES)
    if not line.startswith(_HEAD) or end < 0:
        raise ConsentRejected("a signed record holds `record` and `signatures` and nothing else")
    return line[len(_HEAD) : end]


def check_line(line: bytes) -> Checked:
    """Return what one line says, checked. Raises EncodingRejected, ConsentRejected or SignatureRejected."""
    signed = canonical.decode_fragment(line)
    if set(signed) != {"record", "signatures"}:
        raise ConsentRejected("a signed record holds `record` and `signatures` and nothing else")
    record = signed["record"]
    check_any_record(record)
    data = record_bytes(line)
    signers = check_signatures(record, data, signed["signatures"])
    return Checked(essence_of(record), hashlib.sha256(data).digest(), signers, grantors_of(record))


def check_block(lines: list[bytes], first: int) -> list[Checked]:
    """Return what a block of lines says, of which `first` is the number of the first; raises as `check_line`."""
    checked = []
    for number, line in enumerate(lines, first):
        try:
            checked.append(check_line(line))
        except (CryptoError, EncodingRejected) as fault:
            raise type(fault)(f"record {number}: {fault}") from None
    return checked


def checked_lines(lines: Iterable[bytes], executor: Executor | None = None) -> Iterator[tuple[bytes, Checked]]:
    """Yield each line with what it says, in order, a few blocks ahead in the executor's workers."""
    blocks = _blocks(lines)
    if executor is None:
        for first, block in blocks:
            yield from zip(block, check_block(block, first), strict=True)
        return
    waiting: deque[tuple[list[bytes], Future[list[Checked]]]] = deque()
    try:
        for first, block in blocks:
            waiting.append((block, executor.submit(check_block, block, first)))
            if len(waiting) > BLOCKS_AHEAD:
                done, future = waiting.popleft()
                yield from zip(done, future.result(), strict=True)
        while waiting:
            done, future = waiting.popleft()
            yield from zip(done, future.result(), strict=True)
    finally:
        for _, future in waiting:
            future.cancel()


def _blocks(lines: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    source, first = iter(lines), 1
    while block := list(islice(source, BLOCK)):
        yield first, block
        first += len(block)
