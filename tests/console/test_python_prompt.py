"""The Python prompt of owners: who gets it, what it shows, how it ends; and its journal."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from serving import PASSWORD


@pytest.fixture
def prompt(office, play):
    """Conversations at prompts that are open already."""
    office.console.python = True

    def prompt(*conversations, **settings):
        async def opened(client, conversation):
            await client.log_in("owen", PASSWORD)
            await client.ask("python", ">>> $")
            await conversation(client)

        play(*(lambda client, one=one: opened(client, one) for one in conversations), **settings)

    return prompt


def say(client, statement):
    return client.ask(statement, r">>> $|\.\.\. $")


def test_statements(prompt, events):
    async def conversation(client):
        assert await say(client, "1 + 1") == ["2"]
        assert await say(client, "_ * 21") == ["42"]
        assert await say(client, "None") == []
        assert await say(client, "operator.name, operator.role.value") == ["('owen', 'owner')"]
        assert await say(client, "for word in 'ab':") == []
        assert await say(client, "\tprint(word)") == []
        assert await say(client, "") == ["a", "b"]
        assert await say(client, "'\\x1b[31m' + chr(7)") == [r"'\x1b[31m\x07'"]
        assert await say(client, "print('\\x1b[31m', end='')") == ["?[31m"]
        assert await say(client, "def f(") == []
        client.type("\x03")
        await client.until(">>> $")
        assert (await say(client, "1 +"))[-1].startswith("SyntaxError")
        assert await say(client, "") == []
        client.type("\x1b[A")
        await client.until(r"1 \+$")

    prompt(conversation)
    journal = [fields["statement"] for name, fields in events if name == "python"]
    assert journal[:3] == ["1 + 1", "_ * 21", "None"] and "for word in 'ab':\n    print(word)\n" in journal
    assert {fields["operator"] for name, fields in events if name == "python"} == {"owen"}


def test_what_goes_wrong_is_shown_where_it_is(prompt, events):
    async def conversation(client):
        shown = await say(client, "1 / 0")
        assert shown == [
            "Traceback (most recent call last):",
            '  File "<console>", line 1, in <module>',
            "ZeroDivisionError: division by zero",
        ]
        for statement, last in (
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("raise BaseException('all')", "BaseException: all"),
            (
                "await perform('domain show no.test')",
                "mailserver.directory.entries.Missing: no domain no.test",
            ),
            ("'\\ud800'.encode()", "UnicodeEncodeError"),
            ("(" * 500, "SyntaxError|MemoryError"),
        ):
            shown = await say(client, statement)
            assert any(one in shown[-1] for one in last.split("|"))

    prompt(conversation)
    assert not [name for name, _ in events if name == "session-failed"]


def test_awaiting(prompt, office):
    async def conversation(client):
        assert "'example.test'" in (await say(client, "(await perform('domain list'))[0]"))[0]
        assert await say(client, "application.config.hostname") == ["'mx.example.test'"]
        assert await say(client, "len(connections)") == ["1"]
        await say(client, "import asyncio")
        client.enter("await asyncio.sleep(3600)")
        await client.until(r"^$")
        client.type("\x03")
        await client.until(">>> $")
        assert await say(client, "2") == ["2"]

    prompt(conversation)


def test_the_ways_out(prompt):
    async def conversation(client):
        for leave in ("exit()", "quit()", "raise SystemExit"):
            client.enter(leave)
            await client.until("owner> $")
            await client.ask("python", ">>> $")
        client.type("\x04")
        await client.until("owner> $")

    prompt(conversation)


def test_who_is_gone_leaves_nothing_behind(prompt, office):
    async def conversation(client):
        await say(client, "import asyncio")
        client.enter("await asyncio.sleep(3600)")
        await client.until(r"^$")

    prompt(conversation)  # which waits until nobody is connected
    assert len(office.connections) == 0


def test_who_is_no_owner_any_more_runs_nothing(prompt, office):
    async def conversation(client):
        assert await say(client, "1") == ["1"]
        office.operators.remove("owen")
        client.enter("print('still here')")
        assert (await client.until_closed()).endswith("You are no operator any more.\r\nGoodbye.\r\n")
        assert "still here\r\n" not in client.seen

    prompt(conversation)


def test_it_ends_when_it_is_switched_off(prompt, office):
    async def conversation(client):
        office.console.python = False
        client.enter("print('still here')")
        await client.until("owner> $")
        assert await client.ask("python") == ["no such command"]

    prompt(conversation)


def test_prompts_do_not_mix(prompt, capsys):
    begun = []

    async def meet():
        begun.append(True)
        while len(begun) < 2:
            await asyncio.sleep(0.005)

    def talker(word):
        async def conversation(client):
            await say(client, "import asyncio")
            await meet()
            statement = f"for n in range(20): print('{word}', n); await asyncio.sleep(0.001)"
            await say(client, statement)
            assert await say(client, "") == [f"{word} {n}" for n in range(20)]

        return conversation

    prompt(talker("one"), talker("two"))
    print("ours")
    assert capsys.readouterr().out == "ours\n"


def test_what_is_printed_is_bounded(prompt):
    async def conversation(client):
        shown = await say(client, "print('x' * 10_000_000)")
        assert shown[-1] == "(more was printed)"
        assert sum(map(len, shown)) < 300_000
        assert await say(client, "1") == ["1"]

    prompt(conversation)


def test_a_long_statement_is_journalled_whole(prompt, events):
    async def conversation(client):
        assert await say(client, f"len('{'x' * 3990}')") == ["3990"]

    prompt(conversation)
    journal = [fields["statement"] for name, fields in events if name == "python"]
    assert len(journal) == 2 and "".join(journal) == f"len('{'x' * 3990}')"


def test_without_telnet_too(prompt, office, play):
    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        await client.ask("python", ">>> $")
        client.enter("6 * 7")
        await client.until_shown(">>> 42")

    play(conversation, speaks=False)


@pytest.mark.parametrize(
    ("name", "python"), [("owen", False), ("dora", True), ("audie", True), ("hedy", True)]
)
def test_who_does_not_get_it(play, office, name, python, events):
    office.console.python = python

    async def conversation(client):
        await client.log_in(name, PASSWORD)
        assert await client.ask("python") == ["no such command"]
        assert not any("Python" in line for line in await client.ask("help"))

    play(conversation)
    assert "python" not in [event for event, _ in events]
