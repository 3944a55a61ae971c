"""docker/rds-roots.pem: whose certificates are believed to be RDS'."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from stack.settings import CHECKOUT

# SHA-256 of each root. The certificates of servers are signed by one of them, whichever key the instance has.
FINGERPRINTS = {
    "Amazon RDS ap-northeast-2 Root CA ECC384 G1": "f47a584f42f3d9fd1e0f8908ae65a67ec7cc50340a616871563bde5d889a9cc0",
    "Amazon RDS ap-northeast-2 Root CA RSA2048 G1": "e8de13bf9665ba1a2967008028ffe4f9b4f0a6def6e3caf76e0d496cd6facffc",
    "Amazon RDS ap-northeast-2 Root CA RSA4096 G1": "00ff49c08b7d5dc53328784986580948d06ee9b2f0f1e6b6eae70ccdedf5f757",
}


def test_the_three_roots_of_the_region_are_there_and_nobody_else() -> None:
    roots = x509.load_pem_x509_certificates((CHECKOUT / "docker/rds-roots.pem").read_bytes())
    found = {}
    for root in roots:
        [name] = root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        found[name.value] = root.fingerprint(hashes.SHA256()).hex()
        root.verify_directly_issued_by(root)  # signed by itself
        constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert constraints.ca
        now = datetime.now(UTC)
        assert root.not_valid_before_utc < now
        assert root.not_valid_after_utc.year >= now.year + 5, "find out what has come after it"
    assert found == FINGERPRINTS
