"""Content Credentials (C2PA): who signed a picture, and whether it is still what was signed.

They need `pip install 'kgen[c2pa]'`. What is signed is the whole file, its mark of origin too, and
says that a trained model made it, as its digital source type does.
"""

import io
import json
import pathlib
import re

import numpy as np

from kgen.images import encode_png
from kgen.origin import Origin, one_line

#: The name of a PNG's chunk that holds them.
CHUNK = b"caBX"

_MIME = "image/png"
_WANTED = (
    "a chain of X.509 certificates in PEM, the signer's first, which is not signed by itself and "
    "is for emailProtection or documentSigning (extended key usage)"
)
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# Nothing is asked of the network, neither manifests elsewhere nor whether a certificate was
# revoked; and no thumbnail, which is larger than most of these pictures.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


class Signer:
    """Signs PNGs, as the `signer` of a `kgen.origin.Origin`.

    Args:
        certificates: Path of a chain of X.509 certificates in PEM, the signer's own first, for
            `emailProtection` or `documentSigning`, without the root. One that is signed by itself
            does not sign.
        key: Path of the private key of the first one, in PEM: of a curve (P-256, P-384, P-521),
            Ed25519 or RSA.

    Raises:
        ValueError: They are not that, or do not belong together; or `kgen[c2pa]` is missing.
    """

    def __init__(self, certificates, key):
        self._c2pa = _library()
        self._chain, self._key = (_read(path) for path in (certificates, key))
        self._algorithm = _algorithm(self._key, key)
        try:  # what is wrong is told before anything is drawn
            self.sign(encode_png(np.zeros((1, 1), "uint8")), Origin("kgen", "").claim())
        except self._c2pa.C2paError as error:
            raise ValueError(
                f"{certificates} and {key} do not sign Content Credentials ({_said(error)}): "
                f"needed are {_WANTED}, and its private key."
            ) from error

    def sign(self, png, claim):
        """A PNG's bytes, signed; `claim` is the `kgen.origin.Claim` that is marked in it."""
        c2pa, signed = self._c2pa, io.BytesIO()
        name, _, version = claim.creator.partition(" ")
        agent = {"name": name, "version": version}
        action = {
            "action": "c2pa.created",
            "softwareAgent": agent,
            "digitalSourceType": claim.source_type,
        }
        manifest = {
            "claim_generator_info": [agent],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        # ctypes holds no copies: they have to live until it is signed.
        info = c2pa.C2paSignerInfo(self._algorithm, self._chain, self._key, None)
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(manifest, context) as builder,
        ):
            builder.sign(signer, _MIME, io.BytesIO(png), signed)
        return signed.getvalue()


def read(picture, anchors=None):
    """What a picture's Content Credentials say.

    Args:
        picture: Path of a PNG, or its bytes.
        anchors: Path of certificates in PEM that are trusted to say who a signer is, or `None`.

    Returns:
        `None` where it has none. Else a dict: `"state"` (`"invalid"`, the picture is not what was
        signed, or the signature is none; `"valid"`, it is, by somebody who says to be the signer;
        `"trusted"`, one of `anchors` vouches for that), `"signer"` and `"issuer"` (strings, or
        `None`), `"source_types"` (a list of the digital source types in it) and `"wrong"` (a list
        of sentences).

    Raises:
        ImportError: It has some, and `kgen[c2pa]` is missing.
        ValueError: `anchors` are no certificates.
    """
    data = picture if isinstance(picture, bytes) else pathlib.Path(picture).read_bytes()
    if CHUNK not in data:
        return None
    c2pa = _library(ImportError)
    settings = dict(_SETTINGS)
    if anchors is not None:
        settings["trust"] = {"trust_anchors": _anchors(anchors)}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(_MIME, io.BytesIO(data), context=context) as reader,
        ):
            state, found = reader.get_validation_state(), json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        return _result("invalid", {}, [_said(error)])
    own = found.get("manifests", {}).get(found.get("active_manifest"), {})
    wrong = [
        f"{status.get('explanation') or status.get('code')}"
        for status in found.get("validation_status") or []
        if status.get("code") != "signingCredential.untrusted"
    ]
    return _result(str(state).lower(), own, wrong)


def _result(state, manifest, wrong):
    signature = manifest.get("signature_info") or {}
    actions = [
        action
        for assertion in manifest.get("assertions", ())
        if assertion.get("label", "").startswith("c2pa.actions")
        for action in assertion["data"].get("actions", ())
    ]
    types = {action["digitalSourceType"] for action in actions if "digitalSourceType" in action}
    return {
        "state": state,
        "signer": one_line(signature.get("common_name") or "") or None,
        "issuer": one_line(signature.get("issuer") or "") or None,
        "source_types": sorted(types),
        "wrong": wrong,
    }


def _library(error=ValueError):
    try:
        import c2pa
    except ImportError as missing:
        raise error(
            "Content Credentials need the package c2pa-python: pip install 'kgen[c2pa]'."
        ) from missing
    return c2pa


def _read(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def _anchors(path):
    text = _read(path).decode("utf-8", "replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"{path} holds no certificates in PEM.")
    return text


def _algorithm(data, path):
    """The name, as C2PA has it, of what a private key signs by."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise ValueError(f"{path} is encrypted: give a file without a password.") from error
    except Exception as error:  # cryptography's errors have no common class
        raise ValueError(f"{path} holds no private key in PEM.") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError(
        f"{path} holds a key that Content Credentials are not signed by: needed is one of P-256, "
        "P-384, P-521, Ed25519 or RSA."
    )


def _said(error):
    return re.sub(r"\s+", " ", str(error)).strip(" .")
