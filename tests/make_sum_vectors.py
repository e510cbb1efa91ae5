"""Write the vectors of secure sums: `python tests/make_sum_vectors.py`.

Each is a whole sum of 4 values in Z_{2^64} under fixed keys, some banks lost after the shares: the total, which is checked
here to be the plain sum, and SHA-256 over the masked vectors and over the openings, in the order of the banks' ids. They
change with the protocol's records, its masks or its sharing alone.
"""

import json
from pathlib import Path

import sums_world

PATH = Path(__file__).resolve().parent / "vectors" / "secure_sums.json"
BANKS = (3, 5, 40)


def main() -> None:
    """Write the file."""
    sums = {str(banks): sums_world.digest_of(banks) for banks in BANKS}
    provenance = {
        "generator": "tests/make_sum_vectors.py",
        "keys": "tests/sums_world.signing_key: the bank's id, filled with dots, is the seed of its node key",
        "values": "tests/sums_world.values_of: the ring's largest number, then random ones",
        "totals": "equal to the plain sum modulo 2^64 of the banks that were not lost",
    }
    PATH.write_text(json.dumps({"provenance": provenance, "sums": sums}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
