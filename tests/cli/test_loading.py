"""What a command does not need, it does not load."""

import subprocess
import sys

import pytest

LOADED = "import sys, atexit; atexit.register(lambda: print(*sys.modules)); from mailserver.cli import main; main()"


@pytest.mark.parametrize(
    "arguments", [["--version"], ["user", "list", "--help"], ["sendmail", "--help"]], ids=" ".join
)
def test_commands_load_no_server(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "mailserver.cli.program" in loaded
    assert not loaded & {
        "mailserver.server.appliance",
        "mailserver.cli.init",
        "aiosmtpd",
        "dns",
        "cryptography",
        "twisted",
    }


def test_the_list_of_commands_has_them_all() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailserver", "--help"], capture_output=True, text=True, check=True
    )
    told = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert {"check", "console", "init", "sendmail", "serve", "trace", "user", "queue", "status"} <= told
