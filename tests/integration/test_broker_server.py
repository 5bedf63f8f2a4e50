"""Perspective Broker of a started server: what its queue and log do appears there, over a change of settings."""

from __future__ import annotations

import asyncio
import smtplib
import ssl

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

import serving
from perspectives import Raw
from twisted.spread.jelly import unjelly

OBSERVER = 7


async def until(raw, wanted):
    """Hear messages that nobody answers, as (name, arguments), until one is `wanted`; all of them."""
    heard = []
    while not (heard and wanted(*heard[-1])):
        kind, _, target, name, answered, args, _ = await raw.hear()
        assert answered == 0 and kind in (b"message", b"cachemessage")
        assert kind == b"cachemessage" or target == OBSERVER
        heard.append((name.decode(), unjelly(args)))
    return heard


async def converse(site, port):
    def send():
        with smtplib.SMTP("127.0.0.1", port, timeout=serving.LIMIT) as client:
            client.starttls(context=ssl.create_default_context(cafile=str(site.certificate)))
            client.login("ann@example.test", serving.PASSWORD)
            client.sendmail("ann@example.test", ["x@far.test"], "Subject: x\n\ny\n")

    raw = await Raw.connect(str(site.root / "pb.sock"))
    server = await raw.login()
    [_, [_, queue]] = await raw.call(server, b"queue")
    [_, [kind, _, state]] = await raw.call(queue, b"watch")
    assert (kind, unjelly(state)) == (b"mailserver.Mirror", {"values": {}})
    raw.say([b"message", 1000, server, b"events", 1, [b"tuple", [b"remote", OBSERVER]], [b"dictionary"]])
    assert (await raw.hear())[:2] == [b"answer", 1000]

    await asyncio.to_thread(send)
    heard = await until(raw, lambda name, args: name == "changed" and args[1]["state"] == "deferred")
    number = heard[-1][1][0]
    assert any(name == "event" and f"event=queued id={number}" in args[0]["line"] for name, args in heard)

    reloaded = await asyncio.to_thread(site.run, "config", "set", "submission.messages_per_hour", "7")
    assert reloaded.returncode == 0, reloaded.stderr
    await until(raw, lambda name, args: name == "event" and "event=reloaded" in args[0]["line"])
    assert (await asyncio.to_thread(site.run, "queue", "drop", number, "--yes")).returncode == 0
    heard = await until(raw, lambda name, args: name == "gone")
    assert heard[-1][1] == (number,)
    assert not any(name in ("ended", "lost") for name, _ in heard)
    raw.close()


def test_queue_and_log_are_followed_over_a_change_of_the_configuration():
    with serving.site() as site:
        port, nobody = site.ports.take(), site.ports.take()
        relay = f'[[relay]]\nname = "out"\nhosts = ["127.0.0.1:{nobody}"]\ntls = "none"\ndefault = true\n'
        listeners = [("pb", f"unix:{site.root}/pb.sock"), ("submission", f"tcp:127.0.0.1:{port}")]
        site.configure(listeners, relay, top="workers = 1\n")
        with site.serve() as server:
            server.event("console-serving")
            asyncio.run(asyncio.wait_for(converse(site, port), 2 * serving.LIMIT))
