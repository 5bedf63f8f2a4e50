"""Whatever is said with whichever operation, by whomever: an answer, or a refusal in a line; never a fault."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from administered import EVERYBODY, populated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailserver import maillog
from mailserver.admin.operation import PATH, Operation
from mailserver.admin.refused import EXPECTED, told
from mailserver.admin.table import TABLE

TEXTS = st.one_of(
    st.sampled_from(
        [
            *("ann@a.test", "bob@a.test", "ann@b.test", "info@a.test", "@", '"a b"@a.test', "ann@a.test\0"),
            *("a.test", "b.test", "c.test", "xn--", "..", "/", "", "M1", "M2", "M9", "1-1", "out", "1", "0"),
            *(
                "limits.recipients",
                "limits",
                "listener[tcp:127.0.0.1:2525].paused",
                "relay[out].hosts",
                "hostname",
            ),
            *(
                "tcp:127.0.0.1:2525",
                "tcp:*:99",
                "unix:/x",
                "smtp",
                "pb",
                "200",
                "1G",
                "60s",
                "7d",
                "yes",
                "keep",
            ),
            *(
                "auditor",
                "domain-admin",
                "required",
                "[]",
                "{}",
                '"',
                "= 1",
                "\n[x]",
                "\udc80",
                "é",
                "x" * 9000,
            ),
            *("1700000000.M1P1.host", "postmaster", "SRS0=x=y=z@a.test", "a@b.c@a.test", "127.0.0.1:9"),
        ]
    ),
    st.text(max_size=20),
)
VALUES = st.one_of(
    TEXTS,
    TEXTS,
    st.booleans(),
    st.none(),
    st.integers(),
    st.floats(),
    st.lists(TEXTS, max_size=3),
    st.lists(st.one_of(st.integers(), st.lists(TEXTS, max_size=1)), max_size=2),
    st.dictionaries(TEXTS, TEXTS, max_size=1),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Operation, dict[str, object]]:
    operation = TABLE[draw(st.sampled_from(sorted(TABLE)))]
    said: dict[str, object] = {}
    for one in operation.parameters:
        if one.kind is PATH or not (one.needed or draw(st.booleans())):
            continue  # a path that is taken would be made on this machine
        said[one.name] = draw(VALUES if draw(st.integers(0, 9)) == 0 else _likely(one.many))
    if draw(st.integers(0, 19)) == 0:
        said[draw(st.text(max_size=5))] = draw(VALUES)
    return operation, said


def _likely(many: bool) -> st.SearchStrategy[object]:
    return st.lists(TEXTS, max_size=3) if many else TEXTS


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    made = populated(tmp_path_factory.mktemp("anything"))
    made.operators.add("carol", "auditor", "a good password")
    yield made
    made.close()


@given(call=calls(), operator=st.sampled_from(EVERYBODY[:1] * 20 + EVERYBODY))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_answer_or_a_refusal(there, monkeypatch, call, operator):
    operation, said = call
    lines = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: lines.append((name, fields)))
    monkeypatch.setattr(
        "mailserver.directory.passwords.hash_password", lambda _: "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="
    )

    async def asked() -> object:
        gate = there.administration
        if not operation.stream:
            return await gate.perform(operator, "test", operation.words, said)
        values = gate.watch(operator, "test", operation.words, said)
        try:
            return await anext(values, None)
        finally:
            await values.aclose()

    try:
        answer = asyncio.run(asked())
    except (*EXPECTED, OSError) as error:
        assert told(error).isprintable()
        assert told(error) != "it could not be done; the log says why"
    else:
        msgspec.json.encode(answer)
    assert [name for name, _ in lines].count("audit") == 1
    assert "operation-failed" not in [name for name, _ in lines]
