"""The text of a new `mailserver.toml`: every setting with a comment, defaults shown as comments.

`config/mailserver.toml` of the repository is `render()` as it stands (a test compares them).
Not here: writing it (`start`), reading it (`load`).
"""

from __future__ import annotations

import json

EXAMPLE_DOMAIN = "example.test"  # RFC 2606 §2: never a real domain
LOOPBACK = (
    ("smtp", "tcp:127.0.0.1:2525"),
    ("pop3", "tcp:127.0.0.1:2110"),
    ("pop3", "tls:127.0.0.1:2995"),
)
"""Ports that need no privilege, for this machine alone."""
PUBLIC = (
    ("smtp", "tcp:*:25"),
    ("pop3", "tcp:*:110"),
    ("pop3", "tls:*:995"),
)
"""The ports the world expects, on every address of the machine."""

_TEXT = """\
# The mail server's settings. A line that begins with # is a comment; where it shows a setting, that is
# its default or an example. Durations: "10s", "5m", "2h", "30d". Sizes: "500K", "50M", "1G". Relative
# paths count from the directory of this file. `mailserver check` looks at the whole configuration; the
# server reads it again on SIGHUP.
# Domains, users and aliases are not here: each is a file of its own below domains/.

# The name of this machine in greetings and trace headers, and of its certificate below tls/.
hostname = {hostname}

# People of this domain may log in by their name alone; of all others, by their full address.
default_domain = {default_domain}

# Where the mail is: <maildirs>/<domain>/<user>.
{maildirs}

# Started as root, the server binds its ports and then becomes this user and group (default: the user's
# own group) for good. It does not serve as root, except where that is allowed here.
{user}
#group = "mailserver"
#allow_root = false

# How many processes serve. By default one a core, at most 8.
#workers = 2

# One line per event goes to standard error, or to a file that is reopened on SIGUSR1.
#log_file = "/var/log/mailserver/mailserver.log"

# A file that holds the number of the server's process while it runs.
#pid_file = "/run/mailserver/mailserver.pid"

# What is served where: any number of [[listener]] tables.
#   protocol               "smtp" (mail comes in), "lmtp" (mail from a mail server before this one),
#                          "pop3" (mail is read)
#   endpoint               "tcp:ADDRESS:PORT"    with STARTTLS or STLS; ADDRESS may be * for all, or [::1]
#                          "tls:ADDRESS:PORT"    TLS from the first octet
#                          "unix:/PATH"          or "unix:/PATH:mode=660"
#                          "fd:NAME" or "fd:3"   inherited, as from systemd; "fd+tls:" likewise with TLS
#   proxy_from             peers that begin with a PROXY header (v1, v2), as ["127.0.0.1", "10.0.0.0/8"]
#   allow_cleartext_login  logins without TLS from other machines (this machine always may)
{listeners}
#[[listener]]
#protocol = "lmtp"
#endpoint = "unix:/run/mailserver/lmtp.sock:mode=660"
#proxy_from = []
#allow_cleartext_login = false

[limits]
# The largest message taken in; at least 64K.
#message_size = "50M"
# Recipients of one message; at least 100. Clients send to more in several messages.
#recipients = 1000
# The header of one message.
#header_size = "256K"
# Received fields of one message; more is a loop. At least 100.
#received = 100
# Connections at one time: in all, and from one address (0: any number).
#connections = 10000
#connections_per_address = 500
# How long an SMTP or LMTP client may say nothing, and how long any session may last.
#idle_timeout = "5m"
#session_timeout = "2h"
# How long a server that is told to stop waits for sessions to end.
#drain_timeout = "30s"

[pop3]
# How long a client may say nothing; at least 10 minutes by RFC 1939.
#idle_timeout = "10m"
# The least time between two logins of one user; "0s" for none.
#login_delay = "0s"

[trash]
# Deleted mail stays this long in the folder Trash, from where it can be restored.
#retention = "30d"

[passwords]
# Replace a password hash of an old scheme when its owner logs in.
#upgrade = true
# How long a wrong password waits for its answer; it grows with further ones from the same address.
#failure_delay = "1s"

[addresses]
# Mail for ann+shop is Ann's; "" for no such addresses.
#recipient_delimiter = "+"
"""


def render(
    domain: str = EXAMPLE_DOMAIN,
    hostname: str | None = None,
    listeners: tuple[tuple[str, str], ...] = LOOPBACK,
    maildirs: str | None = None,
    user: str | None = None,
) -> str:
    """The file for a server of `domain`; what is None is shown as a comment."""
    tables = [
        f"[[listener]]\nprotocol = {_quoted(protocol)}\nendpoint = {_quoted(endpoint)}\n"
        for protocol, endpoint in listeners
    ]
    return _TEXT.format(
        hostname=_quoted(hostname or f"mail.{domain}"),
        default_domain=_quoted(domain),
        maildirs=f"maildirs = {_quoted(maildirs)}" if maildirs else '#maildirs = "../maildirs"',
        user=f"user = {_quoted(user)}" if user else '#user = "mailserver"',
        listeners="\n".join(tables),
    )


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)
