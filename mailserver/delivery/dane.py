"""DANE for SMTP (RFC 7672): certificates proven by TLSA records in a signed zone.

Given records that are known to be secure (a validating resolver on this machine said so), this makes the
check of a connection. DANE-EE(3) binds the key or certificate itself; DANE-TA(2) an authority, which then
must have issued a certificate for one of the host's names; the PKIX usages mean nothing for SMTP (§3.1.3).
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from mailserver.delivery.security import Refused
from mailserver.transport.resolver import Tlsa

TA, EE = 2, 3
CHAIN = 10  # certificates of a host that are looked at

_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}


def usable(records: Sequence[Tlsa]) -> list[Tlsa]:
    """Those that say something about an SMTP server which we understand."""
    return [
        record
        for record in records
        if record.usage in (TA, EE)
        and record.selector in (0, 1)
        and (record.matching == 0 or record.matching in _DIGESTS)
    ]


def check(records: Sequence[Tlsa], names: Sequence[str]) -> Callable[[ssl.SSLObject], None]:
    """A check that raises Refused unless the host proves itself by one of the usable `records`.

    `names` are those an authority may have issued the certificate for (RFC 7672 §3.2.2).
    """

    def judge(connection: ssl.SSLObject) -> None:
        try:
            chain = [x509.load_der_x509_certificate(der) for der in _chain(connection)[:CHAIN]]
        except ValueError:
            raise Refused("the host's certificate cannot be read") from None
        if not chain or not (_is_bound(chain[0], records) or _is_vouched_for(chain, records, names)):
            raise Refused("the certificate matches none of the host's TLSA records")

    return judge


def _is_bound(leaf: x509.Certificate, records: Sequence[Tlsa]) -> bool:
    """RFC 7672 §3.1.1: neither names nor dates count, the record says it all."""
    return any(record.usage == EE and _matches(leaf, record) for record in records)


def _is_vouched_for(chain: list[x509.Certificate], records: Sequence[Tlsa], names: Sequence[str]) -> bool:
    anchors = _anchors(chain, [record for record in records if record.usage == TA])
    if not anchors:
        return False
    policy = PolicyBuilder().store(Store(anchors)).extension_policies(ca_policy=_AUTHORITY, ee_policy=_HOST)
    for name in names:
        try:
            policy.build_server_verifier(x509.DNSName(name)).verify(chain[0], chain[1:])
            return True
        except (VerificationError, ValueError):
            continue
    return False


# Signatures, dates, names and who may issue count. The rules for public authorities beyond that do not:
# whoever publishes a TLSA record may well have an authority of his own. (cA itself the library insists on.)
_AUTHORITY = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
_HOST = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


def _anchors(chain: list[x509.Certificate], records: list[Tlsa]) -> list[x509.Certificate]:
    """The authorities that records name: found in the host's chain, or whole in a record (2 0 0)."""
    found = [certificate for certificate in chain[1:] if any(_matches(certificate, one) for one in records)]
    for record in records:
        if (record.selector, record.matching) == (0, 0):
            try:
                found.append(x509.load_der_x509_certificate(record.data))
            except ValueError:
                continue
    return found


def _matches(certificate: x509.Certificate, record: Tlsa) -> bool:
    if record.selector == 0:
        data = certificate.public_bytes(Encoding.DER)
    else:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = _DIGESTS.get(record.matching)
    return (digest(data).digest() if digest else data) == record.data


def _chain(connection: ssl.SSLObject) -> list[bytes]:
    """The host's certificates in DER form, its own first, as it sent them."""
    public = getattr(connection, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return list(public())
    inner = connection._sslobj  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain() or ()]
