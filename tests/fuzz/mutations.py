"""What a dialogue of the corpus can become: the octets of its client's side, mutated."""

from __future__ import annotations

from pathlib import Path

from conversation import read, unescape
from hypothesis import strategies as st

DIALOGUES = Path(__file__).parent.parent / "dialogues"
MOST = 20_000


def corpus(protocol: str) -> list[bytes]:
    """What the client says in each dialogue of a protocol that stays in clear text."""
    return [
        b"".join(
            step.text.encode() + b"\r\n" if step.kind == "C:" else unescape(step.text)
            for step in dialogue.steps
            if step.kind in ("C:", "C\\")
        )
        for dialogue in read(DIALOGUES / protocol)
        if not any(step.kind == "T!" for step in dialogue.steps)
    ]


@st.composite
def mutated(draw: st.DrawFn, dialogues: list[bytes], words: list[bytes]) -> bytes:
    """One or two dialogues with octets taken out, put in (`words` too), doubled and changed."""
    spice = st.one_of(st.binary(max_size=12), st.sampled_from(words))
    data = bytearray(draw(st.sampled_from(dialogues)))
    if draw(st.booleans()):
        data += draw(st.sampled_from(dialogues))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 20)))
        kind = draw(st.sampled_from(["insert", "remove", "double", "flip"]))
        if kind == "insert":
            data[at:at] = draw(spice)
        elif kind == "remove":
            del data[at:end]
        elif kind == "double":
            data[at:at] = data[at:end]
        elif at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data[:MOST])
