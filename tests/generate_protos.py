"""Write the generated modules beside their protos: `python tests/generate_protos.py [FOLDER]`."""

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]


def generate(target: Path) -> None:
    """Write `*_pb2.py` for every proto of the project into `target`/lianxin/proto, or beside the protos if target is
    the project's root. Raises RuntimeError if protoc refuses one."""
    names = sorted(p.name for p in (ROOT / "proto").glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    mapping = f"-Ilianxin/proto={ROOT / 'proto'}"
    arguments = ["protoc", mapping, f"-I{well_known}", f"--python_out={target}"]
    if protoc.main([*arguments, *(f"lianxin/proto/{n}" for n in names)]) != 0:
        raise RuntimeError("protoc refused a proto file; its message is above")


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "protos"
    target.mkdir(parents=True, exist_ok=True)
    generate(target)
    if len(sys.argv) == 1:
        for made in (target / "lianxin" / "proto").glob("*_pb2.py"):
            (ROOT / "proto" / made.name).write_bytes(made.read_bytes())


if __name__ == "__main__":
    main()
