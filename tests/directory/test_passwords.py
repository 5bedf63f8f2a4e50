"""Every scheme that existing databases have: the right password, wrong ones, damaged hashes, cost limits.

The hashes with a {PREFIX} were made by Dovecot 2.3's `doveadm pw`, the others by passlib.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailserver.directory import passwords
from mailserver.directory.passwords import DUMMY, MalformedHash, hash_password, verify

TEST = {  # hashes of "test"
    "argon2id": "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$TT1JAn/wkI4yjufofntgEw$P0OzGetKUxrdbMmL3t94MKllH6yBAGQ9Ks3OeWbiTmg",
    "argon2i": "{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$QTyew9sgT4m0y3FQARlB7g$OSh8eLueVQe5SI75lmeoaHy38gn1UVhjQtKDf/+HSGc",
    "bcrypt-2y": "{BLF-CRYPT}$2y$05$dSvp98B06Y.QFi6jnGk3HeRWvgB55.q4XcceVGrWGQWu/xdLYXRw2",
    "bcrypt-2a": "$2a$05$dSvp98B06Y.QFi6jnGk3HeRWvgB55.q4XcceVGrWGQWu/xdLYXRw2",
    "bcrypt-2b": "$2b$05$dSvp98B06Y.QFi6jnGk3HeRWvgB55.q4XcceVGrWGQWu/xdLYXRw2",
    "crypt-bcrypt": "{CRYPT}$2y$05$O.ojpwnj.yDRpbrDwKxWG.zk4VIG7pgsMHCcucsgGOawEZ2wD7vYC",
    "sha512-crypt": "{SHA512-CRYPT}$6$ZmQEU8nCj8fXzVSe$ISSfBN8.VTkFXnqybi.yfaHor5eG.cEB1Zv4Ct3lhP5XDRAFQNdGaLf75iI8i4hrKvdA1mue9iX7zYJV9H9IZ/",
    "sha512-crypt.b64": "{SHA512-CRYPT.B64}JDYkYXVZMXBvRjBvWXZIMTFQUCQwUXZtZDBzb0RFbmJONTY4ZzhLcjRoUmovQjNjQmdYbm1xVW1JbjVRbGxzeWxjN2lZcE90Y3ZTZE1nakQvQXF4eFRTaE9HU2lUQ0kzNnVaNkRWZm1JMQ==",
    "sha512-crypt.hex": "{SHA512-CRYPT.HEX}2436244946574e5468526f5a42566778356839244977705531466e35696a314e675a71526b4d3669312e61333837775167363833633775784b6f7158637a494e31774a35634141423847557272714f43776c6179376839366c64575330757a4a58745765654644515031",
    "bare sha512-crypt": "$6$ZmQEU8nCj8fXzVSe$ISSfBN8.VTkFXnqybi.yfaHor5eG.cEB1Zv4Ct3lhP5XDRAFQNdGaLf75iI8i4hrKvdA1mue9iX7zYJV9H9IZ/",
    "sha256-crypt": "{SHA256-CRYPT}$5$OckcqSkdnddB5QK5$vHH0W7I2euuyj8IhvOP.nBHOcN7wd/uD0wwIPYh/eE6",
    "md5-crypt": "{MD5-CRYPT}$1$SGz3z46F$qBriESlzdI42Br.mEWxnL1",
    "md5": "{MD5}$1$p0IMN5D0$h3f.tEMYfVPFk/WrqFJUS.",
    "bare md5-crypt": "$1$SGz3z46F$qBriESlzdI42Br.mEWxnL1",
    "dovecot pbkdf2": "{PBKDF2}$1$o22RO6KT8cUINMai$5000$26614eb5ca410c469deff10b0fb5fd87900ba4e2",
    "ssha": "{SSHA}fqwy2eYTg1eu6XFNklJifEBjHMUIy+Se",
    "ssha.hex": "{SSHA.HEX}517ec4aa46e04d1e2858478fb8728202311ed8ecf7cbc078",
    "ssha.b64": "{SSHA.B64}AXhlkdIxT/ZrVQyqc2GXqPEfnhwJE8FO",
    "ssha256": "{SSHA256}MwoU/JDKwtbil51fOWEpSkVyaRUb8zI0ptDvy5+n8YeGFyX5",
    "ssha256.hex": "{SSHA256.HEX}ed2f0f4ba3808fcf6a4463b59949d7bcd3434c4086e0ee6956094baf529b1a82e8a8fa56",
    "ssha512": "{SSHA512}2UAUs1hr1Vv2h8KEe+oW1Ji0/sAwJoVusdi2VYG1MKRo6w4LUkQ6iXI9+GG5VrYjA8rJxRpWh4dgKGNYCRti7u08z1I=",
    "ssha512.b64": "{SSHA512.B64}eQWlPyV/+p4CdMZJuFqU8KPHzAOF1wqQO8KuBwBdasxsUQ1oSy5iVVrfC9bc1YIQLcKZ5VEIy5j4bsmCl0duY/32j6E=",
    "smd5": "{SMD5}Wn1/LVl8POpBFn9bLaf2gAYRhZA=",
    "smd5.hex": "{SMD5.HEX}080df7cba8efe3775de80901c531387d7ce97b2e",
    "sha": "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
    "sha1": "{SHA1}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
    "sha hex by its length": "{SHA}a94a8fe5ccb19ba61c4c0873d391e987982fbbd3",
    "small letters": "{sha.hex}A94A8FE5CCB19BA61C4C0873D391E987982FBBD3",
    "sha.base64": "{SHA.BASE64}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
    "sha256": "{SHA256}n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
    "sha256.hex": "{SHA256.HEX}9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "sha512": "{SHA512}7iaw3Ur350mqGo7jwQrpkj9hiYB3Lkc/iBml1JQODbJ6wYX4oOHV+E+IvIh/1nsUNzLDBMxfqa2Ob1f1ACio/w==",
    "sha512.hex": "{SHA512.HEX}ee26b0dd4af7e749aa1a8ee3c10ae9923f618980772e473f8819a5d4940e0db27ac185f8a0e1d5f84f88bc887fd67b143732c304cc5fa9ad8e6f57f50028a8ff",
    "ldap-md5": "{LDAP-MD5}CY9rzUYh03PK3k6DJie09g==",
    "ldap-md5.hex": "{LDAP-MD5.HEX}098f6bcd4621d373cade4e832627b4f6",
    "plain-md5": "{PLAIN-MD5}098f6bcd4621d373cade4e832627b4f6",
    "plain-md5.b64": "{PLAIN-MD5.B64}CY9rzUYh03PK3k6DJie09g==",
    "plain-md5 base64 by its length": "{PLAIN-MD5}CY9rzUYh03PK3k6DJie09g==",
    "pbkdf2-sha1": "$pbkdf2$1000$wPh/rxVizHlPKQXA.N9byw$CdhpzIuI2BsGNhqRnzdaJobkJto",
    "pbkdf2-sha256": "$pbkdf2-sha256$1000$BeC89/4foxSi1PofwxgjRA$WG5Vgw2LfKAN18Pg7MZqXsPPAxHWqY4FCEW0PfI02.8",
    "pbkdf2-sha512": "$pbkdf2-sha512$1000$Miak9F7LWWuN0bo3xlgrhQ$QnYgjFeJxRHg2RArPlLMMt7LleC2mKdHlKNNb7ZB4JvsUzvRHHS3be9pU0V9hjvrm.22txg7cliHt2Lpedwk8w",
    "scrypt": "$scrypt$ln=8,r=8,p=1$kFKq9V5L6Z0zBmBMSSlFSA$HnWQCK2kEU5OFLtMD6gUgQ54Qk/wE2aRw4Fn1naaWaM",
}
UMLAUT = {  # hashes of "pässword"
    "argon2id": "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$h6TBGcE3j62d/C36+2gYbQ$gB+HzlQdJVa1WBRwbfZpFcMaZCaTbXgFpz9Ovvh2GYo",
    "bcrypt": "{BLF-CRYPT}$2y$05$Mu.ASratVU4ibQAcl9AK0O/bbvlmg2lZaWpctvdDW6MxuLqtzNoyu",
    "sha512-crypt": "{SHA512-CRYPT}$6$FQRTcWe.v6yZv8SL$FpsYP7ix5lfxx4zS0ujSGAIXffYIRwJPl7IvqWNaTKNt0LE.wc1/4x/9yOFSXDGpvaFALGQsyP5gRZdSOSQlH/",
    "pbkdf2": "{PBKDF2}$1$4wuGBupmN6unY8uu$5000$380144fa1c3137f77114cf4bd5dd9b75f6e7945c",
    "ssha512": "{SSHA512}RxgIufuzSE5n7ksVxcyIu2tkRBAFqrRBzFcCFFxES8CaHTr6Rlk0r0QyyGwspUgRjmW07dVktCLO8hAlA6s6MJxjWMY=",
}


@pytest.mark.parametrize("stored", TEST.values(), ids=TEST)
def test_right_and_wrong_password(stored: str) -> None:
    passwords.examine(stored)
    assert verify("test", stored).ok
    for wrong in ("", "tesu", "test ", "test\0", "test" * 257, "test\udcff"):
        assert not verify(wrong, stored).ok


@pytest.mark.parametrize("stored", UMLAUT.values(), ids=UMLAUT)
def test_passwords_are_utf8(stored: str) -> None:
    assert verify("pässword", stored).ok
    assert not verify("password", stored).ok


@pytest.mark.parametrize("stored", TEST.values(), ids=TEST)
def test_hash_cut_short_is_malformed_or_wrong(stored: str) -> None:
    """An editor's accident must not become a hash that anything matches."""
    for length in {*range(0, len(stored), 7), len(stored) - 1}:
        try:
            assert not verify("test", stored[:length]).ok
        except MalformedHash as error:
            assert len(stored) < 16 or stored[-16:] not in str(error)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "test",
        "!",
        "*",
        "x" * 70000,
        "{PLAIN}test",
        "{CLEARTEXT}test",
        "{plain.b64}dGVzdA==",
        "{CRAM-MD5}e02d374fde0dc75a17a557039a3a5338c7743304777dccd376f332bee68d2cf6",
        "{DES-CRYPT}/O5ztC85WShHM",
        "{CRYPT}/O5ztC85WShHM",
        "/O5ztC85WShHM",
        "{NO-SUCH}x",
        "{}x",
        "{SSHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",  # no salt
        "{SHA}fqwy2eYTg1eu6XFNklJifEBjHMUIy+Se",  # a salt
        "{SHA}not base64",
        "{SHA.HEX}xyz",
        "{SHA}",
        "{PBKDF2}$1$salt$0$26614eb5ca410c469deff10b0fb5fd87900ba4e2",
        "{PBKDF2}$1$salt$99999999$26614eb5ca410c469deff10b0fb5fd87900ba4e2",
        "{PBKDF2}$1$salt$5000$26614e",
        "$2y$31$dSvp98B06Y.QFi6jnGk3HeRWvgB55.q4XcceVGrWGQWu/xdLYXRw2",
        "$6$rounds=900000000$uut$8VrHYIBh.cLyv7TPztUM.ZCjD050PJW0UMN8Fv52JeSYhER9Z2aISH2YQqVm8Uyi8NawVqKMD1kvMVlkMmvwi0",
        "$argon2id$v=19$m=4000000000,t=2,p=1$CgGg1LoXorQ2BsC4F2LsHQ$3dK6xvTbhWp1pe84JfKFkUYtTTtLzYTJpaR8G1hUIrk",
        "$argon2id$v=19$m=65536,t=2000000,p=1$CgGg1LoXorQ2BsC4F2LsHQ$3dK6xvTbhWp1pe84JfKFkUYtTTtLzYTJpaR8G1hUIrk",
        "$argon2id$v=19$m=65536,t=2,p=9999$CgGg1LoXorQ2BsC4F2LsHQ$3dK6xvTbhWp1pe84JfKFkUYtTTtLzYTJpaR8G1hUIrk",
        "$scrypt$ln=31,r=8,p=1$T0kJYSyFcE6p1dqbk5Lyvg$vt2j16FJmLc5UynKRHG0oOYfy4CsoKAUOvaTI46nANs",
        "$1$saltonly",
        "$6$saltonly",
        "$unknown$x",
        "$2y$05$O.ojpwnj.yDRpbrDwKxWG.",
    ],
)
def test_what_is_no_hash_is_malformed(stored: str) -> None:
    with pytest.raises(MalformedHash) as raised:
        passwords.examine(stored)
    assert len(str(raised.value)) < 100
    with pytest.raises(MalformedHash):
        verify("test", stored)


def test_clear_password_gets_a_clear_reason() -> None:
    with pytest.raises(MalformedHash, match="clear passwords are not accepted") as raised:
        verify("secret", "{PLAIN}secret")
    assert "secret" not in str(raised.value)


def test_trouble_below_does_not_show_the_hash() -> None:
    stored = "$scrypt$ln=10,r=800000,p=1$T0kJYSyFcE6p1dqbk5Lyvg$vt2j16FJmLc5UynKRHG0oOYfy4CsoKAUOvaTI46nANs"
    with pytest.raises(MalformedHash) as raised:
        verify("test", stored)
    assert str(raised.value) == "the hash is damaged"
    assert raised.value.__suppress_context__


def test_bcrypt_never_takes_a_prefix() -> None:
    from passlib.hash import bcrypt

    stored = bcrypt.using(rounds=4).hash("a" * 72)
    assert verify("a" * 72, stored).ok
    assert not verify("a" * 73, stored).ok
    stored = bcrypt.using(rounds=4).hash("é" * 36)
    assert verify("é" * 36, stored).ok
    assert not verify("é" * 36 + "x", stored).ok


def test_new_hashes_are_current_and_old_ones_outdated() -> None:
    stored = hash_password("test")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert verify("test", stored) == (True, False)
    assert hash_password("test") != stored
    outdated = {name for name, other in TEST.items() if verify("test", other).outdated}
    assert outdated == TEST.keys() - {"argon2id"}
    weak = passwords.get_crypt_handler("argon2").using(type="ID", memory_cost=64, rounds=2, parallelism=1)
    assert verify("test", weak.hash("test")) == (True, True)


def test_dummy_costs_a_current_hash_and_matches_nothing() -> None:
    assert verify("", DUMMY) == (False, False)
    assert verify("test", DUMMY) == (False, False)


@pytest.mark.parametrize("password", ["", "a\0b", "a" * 1025, "é" * 513, "\udcff"])
def test_no_hash_for_what_cannot_log_in(password: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024 octets"):
        hash_password(password)


def test_1024_octets_are_a_password() -> None:
    assert verify("é" * 512, hash_password("é" * 512)).ok


def test_too_long_a_password_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords.hashlib, "new", lambda *_, **__: pytest.fail("hashed"))
    assert not verify("a" * 1025, TEST["ssha"]).ok


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=200) | st.from_regex(r"\{(SHA|SSHA|PBKDF2|CRYPT|MD5)(\.HEX|\.B64)?\}[$0-9a-zA-Z+/=.]*")
)
def test_any_text_is_judged_without_surprise(stored: str) -> None:
    try:
        assert not verify("test", stored).ok
    except MalformedHash:
        return


def test_the_unmaintained_distribution_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.distributions
    monkeypatch.setattr(
        metadata, "distributions", lambda name: real(name="libpass" if name == "passlib" else name)
    )
    with pytest.raises(ImportError, match="libpass is needed"):
        passwords._require_libpass()
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(()))
    with pytest.raises(ImportError, match="libpass is needed"):
        passwords._require_libpass()


FIRST_OF_ALL = """
import sys, threading
sys.setswitchinterval(1e-6)
from mailserver.directory import passwords
barrier, failed = threading.Barrier(4), []
def check():
    barrier.wait()
    try:
        assert passwords.verify("test", sys.argv[1]).ok
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=check) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(repr(failed) if failed else 0)
"""


@pytest.mark.parametrize("scheme", ["bare sha512-crypt", "bare md5-crypt", "argon2id", "bcrypt-2b"])
def test_threads_that_are_the_first_in_a_process(scheme: str) -> None:
    """passlib completes its handlers at their first use, and fails where two threads come at once."""
    for _ in range(3):
        command = [sys.executable, "-c", FIRST_OF_ALL, TEST[scheme]]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
