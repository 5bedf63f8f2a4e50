"""The text of a new `mailserver.toml`: every setting with a comment, defaults shown as comments.

`config/mailserver.toml` of the repository is `render()` as it stands (a test compares them).
Not here: writing it (`start`), reading it (`load`).
"""

from __future__ import annotations

import json

EXAMPLE_DOMAIN = "example.test"  # RFC 2606 §2: never a real domain
LOOPBACK = (
    ("smtp", "tcp:127.0.0.1:2525"),
    ("submission", "tcp:127.0.0.1:2587"),
    ("submission", "tls:127.0.0.1:2465"),
    ("pop3", "tcp:127.0.0.1:2110"),
    ("pop3", "tls:127.0.0.1:2995"),
)
"""Ports that need no privilege, for this machine alone."""
PUBLIC = (
    ("smtp", "tcp:*:25"),
    ("submission", "tcp:*:587"),
    ("submission", "tls:*:465"),
    ("pop3", "tcp:*:110"),
    ("pop3", "tls:*:995"),
)
"""The ports the world expects, on every address of the machine."""

_TEXT = """\
# The mail server's settings. A line that begins with # is a comment; where it shows a setting, that is
# its default or an example. Durations: "10s", "5m", "2h", "30d". Sizes: "500K", "50M", "1G". Relative
# paths count from the directory of this file. `mailserver check` looks at the whole configuration; the
# server looks at it every five seconds, and at once on SIGHUP.
# Domains, users and aliases are not here: each is a file of its own below domains/.

# The name of this machine in greetings and trace headers, and of its certificate below tls/.
hostname = {hostname}

# People of this domain may log in by their name alone; of all others, by their full address.
default_domain = {default_domain}

# Where the mail is: <maildirs>/<domain>/<user>.
{maildirs}

# Started as root, the server binds its ports and then becomes this user and group (default: the user's
# own group) for good. It does not serve as root, except where that is allowed here, or where no listener
# can be reached from another machine.
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
#   protocol               "smtp" (mail comes in), "submission" (people send, after a login), "pop3" (mail
#                          is read), "lmtp" (mail from a mail server before this one), "telnet" and "pb"
#                          (operators; on a UNIX socket, loopback or tls: alone)
#   endpoint               "tcp:ADDRESS:PORT"    with STARTTLS or STLS; ADDRESS may be * for all, or [::1]
#                          "tls:ADDRESS:PORT"    TLS from the first octet
#                          "unix:/PATH"          or "unix:/PATH:mode=660"
#                          "fd:NAME" or "fd:3"   inherited, as from systemd; "fd+tls:" likewise with TLS
#   proxy_from             peers that begin with a PROXY header (v1, v2), as ["127.0.0.1", "10.0.0.0/8"]
#   allow_cleartext_login  logins without TLS from other machines (this machine always may)
#   paused                 accept nothing new there for the time being
{listeners}
#[[listener]]
#protocol = "lmtp"
#endpoint = "unix:/run/mailserver/lmtp.sock:mode=660"
#proxy_from = []
#allow_cleartext_login = false
#paused = false

# How mail leaves: through relays, any number of [[relay]] tables. What no relay takes goes straight to the
# hosts that the DNS names for the recipient's domain.
#   name                   what people, the queue and the log call it
#   hosts                  with their ports; the next one is tried where one is out of order
#   protocol               "smtp", or "lmtp" for another mail store, also at "unix:/PATH"
#   tls                    "required" and "implicit" (from the first octet, port 465) want a certificate for
#                          the host's name; "opportunistic" encrypts where it can; "none". Not for LMTP
#   verify, authorities    take any certificate; or one by the authorities in a PEM file alone
#   user, secret_file      the login; the file has the password and mode 600
#   senders, sender_domains, recipient_domains, default     which mail takes it, the first that fits
#   connections, rate      at most so many at once; messages in a time as "10/s", "30/m", "500/h"; 0: any
#[[relay]]
#name = "provider"
#hosts = ["smtp.example.net:587"]
#protocol = "smtp"
#tls = "required"
#verify = true
#authorities = "secrets/authorities.pem"
#user = "ann"
#secret_file = "secrets/provider"
#senders = ["ann@example.test"]
#sender_domains = []
#recipient_domains = []
#default = true
#connections = 5
#rate = 0

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

[submission]
# Messages a user may send; 0 for any number.
#messages_per_hour = 300
#messages_per_day = 2000
# Recipients of one message; at least 100.
#recipients = 500
# Leave the client's name and address out of the message.
#hide_client = false
# People send as themselves and as every alias that leads to them. Further senders of a user, addresses and
# "@domain" for all of a domain, are given as {{ "ann@example.test" = ["info@example.net", "@example.org"] }}.
#senders = {{}}
# Accounts of this machine whose programs send over a UNIX socket without a login, as with `mailserver
# sendmail`: as a user, {{ www-data = "shop@example.test" }}, or as anybody here, "*".
#accounts = {{ root = "*" }}

[queue]
# How long mail that another host did not take waits after each attempt; the last wait is repeated.
#retry = ["5m", "15m", "30m", "1h", "2h", "4h"]
# After this time it goes back to its sender.
#lifetime = "5d"
# After this time its sender is told that it takes longer; "0s" for never.
#delay_notice = "4h"
# Deliveries at one time: in all, and to one destination that no relay leads to.
#connections = 100
#connections_per_destination = 5
# Deliveries to such a destination in a time, as "10/s" or "30/m"; 0 for any number.
#rate_per_destination = 0

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

[console]
# Let owners run Python in the running server, from telnet or Perspective Broker.
#python = false
# How long an operator may say nothing, and how many may be connected at one time.
#idle_timeout = "30m"
#connections = 200
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
