"""Who made an artifact: an Ed25519 signature of its manifest, which names all else by its hash.

`manifest.sig` holds the 64 bytes that OpenSSL reads and writes too.
"""

import hashlib
import pathlib

from export.errors import VerificationError

FILE = "manifest.sig"


def private_key(key):
    """The private key in a PEM file, for which an `Ed25519PrivateKey` may stand itself.

    `ValueError` where it is none.
    """
    if hasattr(key, "sign"):
        return key
    return _load(key, "private", lambda load, data: load.load_pem_private_key(data, None))


def public_key(key):
    """The public key in a PEM file, for which an `Ed25519PublicKey` may stand itself.

    `ValueError` where it is none.
    """
    if hasattr(key, "verify"):
        return key
    return _load(key, "public", lambda load, data: load.load_pem_public_key(data))


def _load(path, kind, load):
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ValueError(
            "Signatures need the package cryptography: pip install 'kgen[sign]'."
        ) from error
    wanted = f"an Ed25519 {kind} key in PEM is needed"
    try:
        key = load(serialization, pathlib.Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; {wanted}.") from error
    except TypeError as error:  # encrypted
        raise ValueError(
            f"{path} is encrypted: give a file without a password, as "
            f"`openssl pkey -in {path} -out KEY` writes it."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} holds no {kind} key: {wanted}.") from error
    expected = {"private": ed25519.Ed25519PrivateKey, "public": ed25519.Ed25519PublicKey}[kind]
    if not isinstance(key, expected):
        raise ValueError(f"{path} holds a key of another kind, {type(key).__name__}: {wanted}.")
    return key


def fingerprint(public):
    """sha256 of a public key, as a manifest names it: of its DER form, in hexadecimal digits."""
    from cryptography.hazmat.primitives import serialization

    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def check(file, manifest, signature, public):
    """Raises `VerificationError`, which names `file`, if the owner of a key did not sign bytes."""
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, manifest)
    except InvalidSignature as error:
        raise VerificationError(
            f"{file} is no signature of the manifest by the key sha256 "
            f"{fingerprint(public)[:12]}...: it was changed, or somebody else signed it."
        ) from error
