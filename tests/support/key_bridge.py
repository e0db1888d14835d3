"""A key command for tests: python -m … DIRECTORY [FAULT]. Keys are files DIRECTORY/<kek_id>, `current` names one."""

import base64
import json
import os
import sys
import time
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def new_version(directory: Path) -> None:
    """What rotating the key in a KMS does."""
    name = os.urandom(8).hex()
    (directory / name).write_bytes(os.urandom(32))
    (directory / "current").write_text(name)


def wrapped(aead: AESGCM, item: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + aead.encrypt(nonce, item, None)


def opened(aead: AESGCM, item: bytes) -> bytes | None:
    try:
        return aead.decrypt(item[:12], item[12:], None)
    except InvalidTag:
        return None


def answer(directory: Path, question: dict[str, object]) -> dict[str, object]:
    if question["op"] == "describe":
        return {"kek_id": (directory / "current").read_text()}
    aead = AESGCM((directory / str(question["kek_id"])).read_bytes())
    act = wrapped if question["op"] == "wrap" else opened
    results = [act(aead, base64.b64decode(item)) for item in question["items"]]  # type: ignore[attr-defined]
    return {"items": [None if result is None else base64.b64encode(result).decode() for result in results]}


def main(directory: Path, fault: str) -> None:
    question = json.load(sys.stdin)
    print("a secret on standard error", file=sys.stderr)
    if fault == "slow":
        time.sleep(60)
    if fault == "fails":
        sys.exit(3)
    result = answer(directory, question)
    if fault == "text":
        print("a secret in a text")
        return
    if fault == "few":
        result["items"] = []
    if fault == "clear":
        result["items"] = question["items"]
    if fault == "letters":
        result["items"] = ["?" for _ in question["items"]]
    if fault == "name":
        result["kek_id"] = "mine"
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
