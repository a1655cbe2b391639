from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from export.signature import sign_bundle, signed_manifest
from runtime.bundle import Bundle
from runtime.errors import BundleError, UsageError


def write_keys(folder: Path, name: str, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Write NAME.pem and NAME.pub as OpenSSL does; return the private one."""
    key = key or Ed25519PrivateKey.generate()
    private = folder / f"{name}.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private.with_suffix(".pub").write_bytes(public)
    return private


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, with its public one beside it."""
    return write_keys(tmp_path, "key")


def test_a_signed_bundle_opens_as_before_and_its_signature_fits(tiny_bundle: Path, key: Path) -> None:
    signature = sign_bundle(tiny_bundle, key)
    assert signature == tiny_bundle / "bundle.json.sig"
    Bundle.open(tiny_bundle)
    manifest = (tiny_bundle / "bundle.json").read_bytes()
    assert signed_manifest(tiny_bundle, key.with_suffix(".pub")) == (manifest, signature.read_bytes())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_makes_the_keys_and_checks_the_signature(tiny_bundle: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "made.pem", tmp_path / "made.pub"

    def openssl(*arguments: object) -> str:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)  # noqa: S607
        return done.stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    signature, manifest = sign_bundle(tiny_bundle, private), tiny_bundle / "bundle.json"
    signed_manifest(tiny_bundle, public)
    check = ("pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", manifest, "-sigfile", signature)
    assert "Signature Verified Successfully" in openssl(*check)
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert "Signature Verified Successfully" not in openssl(*check)


def test_a_bundle_without_a_signature_is_refused_with_what_to_do(tiny_bundle: Path, key: Path) -> None:
    with pytest.raises(BundleError, match=r"expected .*bundle\.json\.sig, found none .*; sign the bundle"):
        signed_manifest(tiny_bundle, key.with_suffix(".pub"))


def test_a_signature_of_another_key_or_of_another_manifest_is_refused(tiny_bundle: Path, key: Path) -> None:
    other = write_keys(key.parent, "other")
    sign_bundle(tiny_bundle, other)
    with pytest.raises(
        BundleError, match=r"to be the signature of bundle\.json by the key of .*key\.pub, found another"
    ):
        signed_manifest(tiny_bundle, key.with_suffix(".pub"))
    sign_bundle(tiny_bundle, key)
    manifest = tiny_bundle / "bundle.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"threshold": 0.5', b'"threshold": 0.6', 1))
    with pytest.raises(BundleError, match="the manifest was changed, or another key signed it"):
        signed_manifest(tiny_bundle, key.with_suffix(".pub"))


def test_a_damaged_bundle_is_not_signed(tiny_bundle: Path, key: Path) -> None:
    (tiny_bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match="the file was changed or damaged"):
        sign_bundle(tiny_bundle, key)
    assert not (tiny_bundle / "bundle.json.sig").exists()


def test_only_ed25519_keys_of_the_right_half_are_taken(tiny_bundle: Path, key: Path, tmp_path: Path) -> None:
    curve = write_keys(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    for wrong, found in [(curve, "another kind"), (key.with_suffix(".pub"), "none that can be read")]:
        with pytest.raises(UsageError, match=f"expected a private Ed25519 key .* found {found}"):
            sign_bundle(tiny_bundle, wrong)
    for wrong, found in [(curve.with_suffix(".pub"), "another kind"), (key, "none that"), (tmp_path / "no", "none")]:
        with pytest.raises(UsageError, match=f"expected a public Ed25519 key .* found {found}"):
            signed_manifest(tiny_bundle, wrong)
