"""Every known way to ask a mail server for a relay: forms of a recipient, each to be tried with several senders.

A form that names somebody here (a source route to him) may be taken: for him.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

AWAY = "elsewhere.test"
HERE = ("example.test", "EXAMPLE.TEST", "catch.test", "bounce.test", "xn--bcher-kva.example")
OURS = (
    *HERE,
    "mx.example.test",
    "localhost",
    "localhost.localdomain",
    "[127.0.0.1]",
    "[192.0.2.1]",
    "[IPv6:::1]",
)
LOCALS = (
    "{victim}%{away}",
    "{victim}%{away}%{here}",
    '"{victim}@{away}"',
    '"{victim}%{away}"',
    "{away}!{victim}",
    "{here}!{away}!{victim}",
    '"{away}!{victim}"',
    "{victim}@{away}",
    '"{victim}@{away}@{here}"',
    "victim={away}",
)
ALONE = (
    f"<victim@{AWAY}>",
    f'<"victim"@{AWAY}>',
    f"victim@{AWAY}",
    f"<victim@{AWAY}.>",
    f"<victim@[{AWAY}]>",
    "<victim@[10.0.0.1]>",
    "<victim@[IPv6:2001:db8::1]>",
    "<victim@10.0.0.1>",
    "<victim@2130706433>",
    f"<@{AWAY}>",
    f"<@example.test:victim@{AWAY}>",
    f"<@localhost:victim@{AWAY}>",
    f"<@[127.0.0.1]:victim@{AWAY}>",
    f"<@{AWAY}:victim@{AWAY}>",
    f"<@example.test,@{AWAY}:victim@{AWAY}>",
    f"<@example.test:@{AWAY}:victim@{AWAY}>",
    f"<@example.test;victim@{AWAY}>",
    f"<@example.test:{AWAY}!victim>",
    f"<@example.test:victim%{AWAY}@example.test>",
    f"<@{AWAY}:ann%{AWAY}@example.test>",
    f"<example.test:victim@{AWAY}>",
    f"<victim@example.test@{AWAY}>",
    f"<victim@{AWAY}@example.test>",
    f"<victim%example.test@{AWAY}>",
    f"<example.test!victim@{AWAY}>",
    f"<{AWAY}!victim>",
    f"<{AWAY}!victim@localhost>",
    f"<victim%{AWAY}>",
    f"<victim%{AWAY}@>",
    f"<victim@{AWAY}%example.test>",
    f"<victim@{AWAY}:25>",
    f"<victim@{AWAY},ann@example.test>",
    f"<ann@example.test,victim@{AWAY}>",
    f"<ann@example.test> <victim@{AWAY}>",
    f"<ann@example.test>,<victim@{AWAY}>",
    f"<ann@example.test>victim@{AWAY}",
    f"<<victim@{AWAY}>>",
    f"<victim@{AWAY}> <ann@example.test>",
    f"victim@{AWAY} <ann@example.test>",
    f'"ann@example.test" <victim@{AWAY}>',
    f"<smtp:victim@{AWAY}>",
    f"<mailto:victim@{AWAY}>",
    f"<victim@{AWAY}(example.test)>",
    f"<victim(example.test)@{AWAY}>",
    f"<victim@example.test.{AWAY}>",
    "<victim@sub.example.test>",
    "<victim@notexample.test>",
    "<victim@example.test.evil.test>",
    "<victim@test>",
    "<victim@localhost>",
    "<victim@[127.0.0.1]>",
    f"<|/usr/sbin/sendmail victim@{AWAY}>",
    '<"|/usr/sbin/sendmail victim"@example.test>',
    '<"/tmp/file"@example.test>',
    '<":include:/etc/passwd"@example.test>',
    f'<"ann@example.test> ORCPT=rfc822;victim@{AWAY}"@{AWAY}>',
    f'<"ann\\@example.test"@{AWAY}>',
    f'<"victim@{AWAY}\\""@example.test>',
    f"<ann+victim@{AWAY}>",
    f"<ann+victim%{AWAY}@{AWAY}>",
    f"<victim+{AWAY}@{AWAY}>",
    f"<victim=40{AWAY}@{AWAY}>",
    f"<SRS0=aaaaaaaa=aa={AWAY}=victim@example.test>",
    f"<SRS0=aaaa=aa={AWAY}=victim@example.test>",
    f"<srs0-aaaaaaaa=aa={AWAY}=victim@example.test>",
    f"<SRS1=aaaaaaaa={AWAY}==aaaa=aa=client.test=victim@example.test>",
    f"<SRS1=aaaaaaaa={AWAY}==victim@example.test>",
    f"<SRS0=aaaaaaaa=aa={AWAY}=victim@{AWAY}>",
    f"<prvs=1234567890=victim@{AWAY}>",
    "<victim@ELSEWHERE.TEST>",
    f"<victim%{AWAY}@away.test>",
    f"<{AWAY}!victim@away.test>",
    f'<"victim@{AWAY}"@away.test>',
    "<victim@xn--lsewhere-90a.test>",
    "<victim@\u212axample.test>",
    "<victim@example\uff0etest.evil.test>",
)
BUILT = tuple(
    f"<{local.format(victim='victim', away=AWAY, here=here.strip('[]'))}@{here}>"
    for local in LOCALS
    for here in OURS
)
FORMS = tuple(dict.fromkeys(ALONE + BUILT))
SENDERS = ("<>", "<spam@client.test>", f"<victim@{AWAY}>", "<ann@example.test>", "<spam@localhost>")
# What names somebody here, whatever else it says.
HERE_AFTER_ALL = {
    "<victim=elsewhere.test@catch.test>",
    "<victim=elsewhere.test@bounce.test>",
}


def attempts(forms: Iterable[str]) -> list[str]:
    """Commands that try the forms with every sender, one after the other; a message goes with each, by BDAT."""
    lines = []
    for form in forms:
        for sender in SENDERS:
            lines += [f"MAIL FROM:{sender} SMTPUTF8", f"RCPT TO:{form}", "BDAT 3 LAST\r\nx", "RSET"]
    return lines


# Who a client may pretend to be, in place of its greeting or after it.
PRETENCES = (
    ["EHLO mx.example.test"],
    ["EHLO localhost"],
    ["EHLO [127.0.0.1]"],
    ["HELO example.test"],
    ["LHLO localhost"],
    ["PROXY TCP4 127.0.0.1 127.0.0.1 40000 25", "EHLO client.test"],
    ["EHLO client.test", "XCLIENT ADDR=127.0.0.1 NAME=localhost LOGIN=ann@example.test"],
    ["EHLO client.test", "XFORWARD ADDR=127.0.0.1 SOURCE=LOCAL"],
    ["EHLO client.test", "ETRN #elsewhere.test"],
    ["EHLO client.test", "AUTH EXTERNAL YW5uQGV4YW1wbGUudGVzdA=="],
    ["EHLO client.test", "AUTH ANONYMOUS YW5u"],
    ["EHLO client.test", "AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QA"],
    ["EHLO client.test", "AUTH PLAIN AAA="],
    ["EHLO client.test", "AUTH LOGIN YW5uQGV4YW1wbGUudGVzdA==", ""],
    ["EHLO client.test", "AUTH PLAIN", "AGFubkBleGFtcGxlLnRlc3QAd3Jvbmc="],
    ["EHLO client.test", "AUTH PLAIN", "*"],
)


def pretended(pretence: Sequence[str]) -> list[str]:
    """Commands of a client who pretends, and asks as if it were believed."""
    envelopes = [
        (sender, extra) for sender in SENDERS for extra in ("", " AUTH=ann@example.test", " AUTH=<>")
    ]
    lines = list(pretence)
    for sender, extra in envelopes:
        lines += [f"MAIL FROM:{sender}{extra}", f"RCPT TO:<victim@{AWAY}>", "BDAT 3 LAST\r\nx", "RSET"]
    return lines
