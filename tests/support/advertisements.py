"""Advertisements made by hand, beside the libraries that read them: formats as their makers write them down."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

ADDRESS = bytes.fromhex("c0ffee000001")  # made up


def victron(key, record, plain, *, counter=1, model=0xA389):
    """Manufacturer data of an Instant Readout advertisement."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "little"))).encryptor()
    head = b"\x10\x02" + model.to_bytes(2, "little") + bytes([record]) + counter.to_bytes(2, "little")
    return head + key[:1] + cipher.update(plain)


def bthome(objects, *, key=None, counter=1, address=ADDRESS, with_address=False, info=0x40):
    """Service data of a BTHome v2 advertisement; encrypted with a key."""
    info |= 2 * with_address | (key is not None)
    said = address[::-1] if with_address else b""
    if key is None:
        return bytes([info]) + said + objects
    count = counter.to_bytes(4, "little")
    sealed = AESCCM(key, tag_length=4).encrypt(address + b"\xd2\xfc" + bytes([info]) + count, objects, None)
    return bytes([info]) + said + sealed[:-4] + count + sealed[-4:]
