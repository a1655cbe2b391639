"""Signs a bundle with an Ed25519 key, and checks a signature; the one file that imports cryptography.

What is signed are the bytes of bundle.json, which holds the hash of every file that the runtime reads. Engines are
built on the device and stand in no manifest: no signature covers them. The signature is a file of 64 bytes beside the
manifest, so that OpenSSL reads it too:

    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in bundle.json -sigfile bundle.json.sig
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from runtime.bundle import Bundle
from runtime.errors import BundleError, UsageError
from runtime.files import output_errors, written_aside
from runtime.schema import MANIFEST_NAME, SIGNATURE_NAME

MAKE_KEY = "openssl genpkey -algorithm ed25519 -out private.pem"
MAKE_PUBLIC_KEY = "openssl pkey -in private.pem -pubout -out public.pem"
SIGN = "python -m export sign BUNDLE --key private.pem"


def sign_bundle(folder: Path, key: Path) -> Path:
    """Sign a bundle whose files all have their recorded hashes; return the signature's path.

    Raises UsageError unless `key` is a private Ed25519 key in PEM, BundleError where the bundle is damaged.
    """
    private = _private_key(key)
    manifest = Bundle.open(folder).folder / MANIFEST_NAME
    path = manifest.with_name(SIGNATURE_NAME)
    with written_aside(path) as aside, output_errors(path):
        aside.write_bytes(private.sign(manifest.read_bytes()))
    return path


def signed_manifest(folder: Path, key: Path) -> tuple[bytes, bytes]:
    """Return the bytes of a bundle's manifest and its signature, which fit each other and the public key.

    Raises UsageError unless `key` is a public Ed25519 key in PEM, BundleError where there is no signature or another.
    """
    public = _public_key(key)
    manifest = _read(folder / MANIFEST_NAME, "make a bundle with `python -m export onnx`")
    path = folder / SIGNATURE_NAME
    signature = _read(path, f"sign the bundle where its key is (`{SIGN}`), or install it with --unsigned")
    try:
        public.verify(signature, manifest)
    except InvalidSignature as error:
        raise BundleError(
            f"expected {path} to be the signature of {MANIFEST_NAME} by the key of {key}, found another: the manifest "
            "was changed, or another key signed it; get the bundle again from who signs it, or the right public key"
        ) from error
    return manifest, signature


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"expected {path}, found none that can be read ({error.strerror}); {advice}") from error


def _private_key(path: Path) -> Ed25519PrivateKey:
    wanted = f"expected a private Ed25519 key in PEM, without a password, at {path}"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise UsageError(f"{wanted}, found none that can be read ({_line(error)}); {MAKE_KEY} makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{wanted}, found another kind ({type(key).__name__}); {MAKE_KEY} makes one")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    wanted = f"expected a public Ed25519 key in PEM at {path}"
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{wanted}, found none that can be read ({_line(error)}); {MAKE_PUBLIC_KEY} writes it") from (
            error
        )
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{wanted}, found another kind ({type(key).__name__}); {MAKE_PUBLIC_KEY} writes it")
    return key


def _line(error: Exception) -> str:
    """Return what an error says as a piece of one line."""
    return getattr(error, "strerror", None) or str(error).split(". ")[0].rstrip(".")
